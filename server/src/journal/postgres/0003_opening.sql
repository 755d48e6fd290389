-- Begins an opening: of the process that has the row already, or of a newcomer that has seen `seen` as the
-- number of an opening that is over. Waits for a commit under way; none of an older opening can follow.
-- Returns the number, or null if another process has the row.
--
-- The answers from `needed` on are kept; a newcomer keeps those of the process before it, which may still
-- ask for them.
CREATE FUNCTION open_1(me text, my_holder uuid, seen bigint, needed bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '5s' AS $function$
DECLARE
    begun bigint;
    kept_from bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(8, hashtext(me));
    INSERT INTO replica (id, opening, since, beat) VALUES (me, 0, 0, 0) ON CONFLICT (id) DO NOTHING;
    SELECT coalesce(needed, r.since) INTO kept_from FROM replica r WHERE r.id = me;
    UPDATE replica r SET opening = r.opening + 1, holder = my_holder, beat = r.beat + 1,
            since = CASE WHEN r.holder = my_holder THEN r.since ELSE r.opening + 1 END,
            backend = pg_backend_pid(),
            backend_start = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
        WHERE r.id = me AND (r.holder = my_holder OR r.opening = seen)
        RETURNING r.opening INTO begun;
    DELETE FROM commit_answer a WHERE a.replica = me AND a.opening < kept_from AND begun IS NOT NULL;
    RETURN begun;
END $function$;

-- Shows that the process lives. False if it has lost the row. Nothing is lost with a beat, so that it does
-- not wait for the disk.
CREATE FUNCTION beat_1(me text, my_holder uuid) RETURNS boolean LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE replica r SET beat = r.beat + 1, backend = pg_backend_pid(),
            backend_start = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
        WHERE r.id = me AND r.holder = my_holder;
    RETURN FOUND;
END $function$;

-- Lets the row go, so that the next process need not wait.
CREATE FUNCTION release_1(me text, my_holder uuid) RETURNS void LANGUAGE sql AS $function$
    UPDATE replica r SET holder = null, backend = null, backend_start = null
        WHERE r.id = me AND r.holder = my_holder
$function$;
