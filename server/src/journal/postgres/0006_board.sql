-- The words that processes leave for each other. Nobody needs them for long, so that none is logged: after a
-- crash of the server, and on a standby that takes over, these tables are empty, and each process finds its mark
-- gone and puts everything again. The numbers are logged, and never go back.

CREATE SEQUENCE board_number;

-- Each process's mark: its wishes with lower numbers are over.
CREATE UNLOGGED TABLE board_mark (
    replica text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL,
    seen bigint NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE wanted (
    purchase uuid NOT NULL,
    replica text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    watchers integer NOT NULL,
    -- The number of the refresh that is waited for; 0 if none is.
    refresh bigint NOT NULL,
    is_over boolean NOT NULL,
    number bigint NOT NULL,
    put_time bigint NOT NULL,
    PRIMARY KEY (purchase, replica)
) WITH (fillfactor = 70);
CREATE INDEX wanted_by_account ON wanted (account, number);

CREATE UNLOGGED TABLE told (
    purchase uuid PRIMARY KEY,
    answered bigint,
    next_poll bigint,
    held_back_since bigint,
    failures integer NOT NULL,
    -- The number of the last refresh that was answered, 0 if none was, and its end.
    refreshed bigint NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    retry bigint,
    put_time bigint NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE account_shown (
    account text COLLATE "C" PRIMARY KEY,
    snapshot text COLLATE "C" NOT NULL,
    put_time bigint NOT NULL
) WITH (fillfactor = 50);

-- Sets a process's mark anew. Puts of the process that are under way are waited for, and those that come later
-- find another mark.
CREATE FUNCTION mark_1(me text) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '2s' AS $function$
DECLARE
    mark bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO board_mark AS m (replica, number, seen) VALUES (me, nextval('board_number'), now_1())
        ON CONFLICT (replica) DO UPDATE SET number = nextval('board_number'), seen = now_1()
        RETURNING m.number INTO mark;
    DELETE FROM wanted w WHERE w.replica = me;
    RETURN mark;
END $function$;

-- Puts wishes under a mark. Returns their numbers, or null if the mark is gone. Numbers are drawn under one lock,
-- so that whoever sees a number sees all before it.
CREATE FUNCTION wish_1(
    me text, mark bigint, purchases uuid[], accounts text[], watching integer[], refreshes bigint[], overs boolean[]
) RETURNS bigint[] LANGUAGE plpgsql SET lock_timeout = '2s' SET jit = off AS $function$
DECLARE
    numbers bigint[];
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE board_mark m SET seen = now_1() WHERE m.replica = me AND m.number = mark;
    IF NOT FOUND THEN
        RETURN null;
    END IF;
    IF cardinality(purchases) = 0 THEN
        RETURN '{}';
    END IF;
    PERFORM pg_advisory_xact_lock(10, 1);
    numbers := ARRAY(SELECT nextval('board_number') FROM generate_series(1, cardinality(purchases)));
    INSERT INTO wanted (purchase, replica, account, watchers, refresh, is_over, number, put_time)
        SELECT u.purchase, me, u.account, u.watchers, CASE u.refresh WHEN -1 THEN u.number ELSE u.refresh END,
            u.is_over, u.number, now_1()
        FROM unnest(purchases, accounts, watching, refreshes, overs, numbers)
            u (purchase, account, watchers, refresh, is_over, number)
        ORDER BY u.purchase
        ON CONFLICT (purchase, replica) DO UPDATE SET account = excluded.account, watchers = excluded.watchers,
            refresh = excluded.refresh, is_over = excluded.is_over, number = excluded.number,
            put_time = excluded.put_time;
    RETURN numbers;
END $function$;

-- Puts words about purchases. Times count from now; 0 as a refresh stands for none. The end of a later refresh
-- stays.
CREATE FUNCTION tell_board_1(
    purchases uuid[], answers bigint[], polls bigint[], helds bigint[], failing integer[],
    refreshes bigint[], outcomes text[], retries bigint[]
) RETURNS void LANGUAGE plpgsql SET lock_timeout = '2s' SET jit = off AS $function$
DECLARE
    at bigint := now_1();
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO told AS t (
            purchase, answered, next_poll, held_back_since, failures, refreshed, outcome, retry, put_time)
        SELECT u.purchase, at + u.answer, at + u.poll, at + u.held, u.failures, u.refresh, u.outcome, at + u.retry, at
        FROM unnest(purchases, answers, polls, helds, failing, refreshes, outcomes, retries)
            u (purchase, answer, poll, held, failures, refresh, outcome, retry)
        -- Two owners, of which one is so no more, wait for each other in one direction alone.
        ORDER BY u.purchase
        ON CONFLICT (purchase) DO UPDATE SET answered = excluded.answered, next_poll = excluded.next_poll,
            held_back_since = excluded.held_back_since, failures = excluded.failures,
            refreshed = greatest(t.refreshed, excluded.refreshed),
            outcome = CASE WHEN t.refreshed > excluded.refreshed THEN t.outcome ELSE excluded.outcome END,
            retry = CASE WHEN t.refreshed > excluded.refreshed THEN t.retry ELSE excluded.retry END,
            put_time = excluded.put_time;
END $function$;

-- Puts snapshots of accounts.
CREATE FUNCTION show_1(accounts text[], snapshots text[]) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' AS $function$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO account_shown (account, snapshot, put_time)
        SELECT u.account, u.snapshot, now_1() FROM unnest(accounts, snapshots) u (account, snapshot)
        ORDER BY u.account
        ON CONFLICT (account) DO UPDATE SET snapshot = excluded.snapshot, put_time = excluded.put_time;
END $function$;

-- Takes away what is so old and nobody needs, at most so many rows of each kind. Returns their number.
CREATE FUNCTION tidy_1(age bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '2s' AS $function$
DECLARE
    old bigint := now_1() - age;
    gone bigint;
    taken bigint := 0;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM board_mark m WHERE m.seen <= old;
    GET DIAGNOSTICS gone = ROW_COUNT;
    taken := taken + gone;
    DELETE FROM wanted w WHERE w.ctid = ANY (ARRAY(
        SELECT o.ctid FROM wanted o WHERE (o.is_over AND o.put_time <= old)
            OR NOT EXISTS (SELECT FROM board_mark m WHERE m.replica = o.replica)
        LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    taken := taken + gone;
    DELETE FROM told t WHERE t.ctid = ANY (ARRAY(
        SELECT o.ctid FROM told o WHERE o.put_time <= old
            AND NOT EXISTS (SELECT FROM wanted w WHERE w.purchase = o.purchase)
        LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    taken := taken + gone;
    DELETE FROM account_shown a WHERE a.put_time <= old;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN taken + gone;
END $function$;
