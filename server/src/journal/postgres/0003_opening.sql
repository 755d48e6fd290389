-- The time by the server's clock, in milliseconds since 1970-01-01T00:00:00Z.
CREATE FUNCTION now_1() RETURNS bigint LANGUAGE sql VOLATILE AS $function$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$function$;

-- Begins the first opening of a process. It is alone, or beside others that are not. Those that are in its way
-- and that it has found gone, each at this opening, can commit no more. Returns the number, or null if another
-- process is in its way.
--
-- Of the processes before it, the 100 that were seen last are kept, so that their number stays small.
CREATE FUNCTION enter_1(me text, my_level integer, alone boolean, gone text[], gone_openings bigint[])
RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '5s' AS $function$
DECLARE
    rival text;
    past text[];
BEGIN
    PERFORM pg_advisory_xact_lock(9, 1);
    -- Waits for a commit under way; none of an older opening can follow.
    FOREACH rival IN ARRAY gone LOOP
        PERFORM pg_advisory_xact_lock(8, hashtext(rival));
    END LOOP;
    UPDATE replica r SET is_gone = true, opening = r.opening + 1
        FROM unnest(gone, gone_openings) g (id, opening) WHERE r.id = g.id AND r.opening = g.opening;
    IF EXISTS (SELECT FROM replica r WHERE NOT r.is_gone AND (alone OR r.is_alone)) THEN
        RETURN null;
    END IF;
    past := ARRAY(SELECT r.id FROM replica r ORDER BY r.seen DESC, r.id OFFSET 100);
    DELETE FROM commit_answer a WHERE a.replica = ANY (past);
    DELETE FROM replica r WHERE r.id = ANY (past);
    INSERT INTO replica (id, opening, is_alone, level, beat, seen, is_leaving, is_gone, backend, backend_start)
        VALUES (me, 1, alone, my_level, 0, now_1(), false, false,
            CASE WHEN alone THEN pg_backend_pid() END,
            (SELECT a.backend_start FROM pg_stat_activity a WHERE alone AND a.pid = pg_backend_pid()));
    RETURN 1;
END $function$;

-- Begins another opening of a process. Waits for a commit under way; none of an older opening can follow.
-- Returns the number, or null if the process can commit no more. The answers from `needed` on are kept.
CREATE FUNCTION open_1(me text, needed bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '5s' AS $function$
DECLARE
    begun bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(8, hashtext(me));
    UPDATE replica r SET opening = r.opening + 1 WHERE r.id = me AND NOT r.is_gone
        RETURNING r.opening INTO begun;
    DELETE FROM commit_answer a WHERE a.replica = me AND a.opening < needed AND begun IS NOT NULL;
    RETURN begun;
END $function$;

-- Shows that a process lives that is alone. False if it can commit no more. Nothing is lost with a beat, so that
-- it does not wait for the disk.
CREATE FUNCTION beat_1(me text) RETURNS boolean LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE replica r SET beat = r.beat + 1, seen = now_1(), backend = pg_backend_pid(),
            backend_start = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
        WHERE r.id = me AND NOT r.is_gone;
    RETURN FOUND;
END $function$;

-- Ends a process, all of whose outcomes are known.
CREATE FUNCTION exit_1(me text) RETURNS void LANGUAGE plpgsql SET lock_timeout = '5s' AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock(8, hashtext(me));
    DELETE FROM commit_answer a WHERE a.replica = me;
    DELETE FROM replica r WHERE r.id = me;
END $function$;
