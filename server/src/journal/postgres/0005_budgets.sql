-- Budgets, places in flight and pauses of accounts, for all processes of the store together. Times are
-- microseconds by clock_timestamp().

CREATE TABLE budget (
    account text COLLATE "C" PRIMARY KEY,
    arrival_us bigint NOT NULL DEFAULT 0,
    creates_us bigint NOT NULL DEFAULT 0,
    paused_until_us bigint NOT NULL DEFAULT 0,
    unreachable_until_us bigint NOT NULL DEFAULT 0,
    create_wanted_us bigint NOT NULL DEFAULT 0,
    longest_wanted_us bigint NOT NULL DEFAULT 0,
    since_longest bigint NOT NULL DEFAULT 0,
    slowed_to bigint NOT NULL DEFAULT 0,
    slowed_full bigint NOT NULL DEFAULT 0,
    slowed_us bigint NOT NULL DEFAULT 0,
    seen_us bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE place (
    account text COLLATE "C" NOT NULL,
    replica text COLLATE "C" NOT NULL,
    held bigint NOT NULL,
    until_us bigint NOT NULL,
    PRIMARY KEY (account, replica)
) WITH (fillfactor = 50);

-- The requests that a process may have in flight until it says otherwise. Whoever has said nothing for as
-- long as its requests can last is forgotten once another process comes.
CREATE FUNCTION hold_1(my_account text, me text, my_held bigint, my_until_us bigint, now_us bigint)
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    UPDATE place p SET held = my_held, until_us = my_until_us
        WHERE p.account = my_account AND p.replica = me;
    IF NOT FOUND THEN
        DELETE FROM place p WHERE p.account = my_account AND p.until_us <= now_us;
        INSERT INTO place (account, replica, held, until_us)
            VALUES (my_account, me, my_held, my_until_us);
    END IF;
END $function$;

-- An account's row, locked, by the clock as it is now, or as `at_us` says if that is given: seen_us. If the
-- clock was set back since the row was last seen, all times of the account have moved with it.
CREATE FUNCTION budget_1(my_account text, at_us bigint) RETURNS budget LANGUAGE plpgsql AS $function$
DECLARE
    b budget;
    now_us bigint;
    by_us bigint;
BEGIN
    LOOP
        SELECT * INTO b FROM budget r WHERE r.account = my_account FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO budget (account) VALUES (my_account) ON CONFLICT (account) DO NOTHING;
    END LOOP;
    -- Read under the lock, so that it does not go back from one take to the next.
    now_us := coalesce(at_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    by_us := b.seen_us - now_us;
    IF by_us > 0 THEN
        UPDATE budget r SET arrival_us = r.arrival_us - by_us, creates_us = r.creates_us - by_us,
                paused_until_us = r.paused_until_us - by_us,
                unreachable_until_us = r.unreachable_until_us - by_us,
                create_wanted_us = r.create_wanted_us - by_us,
                longest_wanted_us = r.longest_wanted_us - by_us, slowed_us = r.slowed_us - by_us
            WHERE r.account = my_account RETURNING * INTO b;
        UPDATE place p SET until_us = p.until_us - by_us WHERE p.account = my_account;
    END IF;
    b.seen_us := now_us;
    RETURN b;
END $function$;

-- The limit that holds after a throttle without a word; 0 if none does.
CREATE FUNCTION slowed_1(b budget, now_us bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
    raised bigint;
BEGIN
    IF b.slowed_to = 0 THEN
        RETURN 0;
    END IF;
    raised := b.slowed_to + (now_us - b.slowed_us) / 15000000 * greatest(b.slowed_full / 20, 1);
    RETURN CASE WHEN raised < b.slowed_full THEN raised ELSE 0 END;
END $function$;

-- Takes what a process wants, or says why not: G given, L not before wait_us have passed, B all places are
-- held. Purposes are F (creates and adoptions), P (polls) and O. All times of the answer count
-- from now, which is `at_us` if that is given. The rules are those of the program's own stores, which say
-- why.
--
-- Nothing is promised by a take that a crash forgets, so that it does not wait for the disk.
CREATE FUNCTION take_1(
    my_account text, me text, purpose text, slots bigint, interval_us bigint, tolerance_us bigint,
    creates_interval_us bigint, creates_tolerance_us bigint, owed_us bigint, creates_owed_us bigint,
    in_flight bigint, places bigint, places_max bigint, lasts_us bigint, at_us bigint
) RETURNS TABLE (
    verdict text, wait_us bigint, arrival_in_us bigint, given bigint, creates_in_us bigint,
    is_for_longest boolean, held bigint, paused_us bigint, unreachable_us bigint, slowed_now bigint,
    slowed_of bigint
) LANGUAGE plpgsql SET lock_timeout = '5s' SET jit = off AS $function$
DECLARE
    b budget;
    now_us bigint;
    others bigint;
    most bigint;
    longest_us bigint;
    requests_us bigint;
    opens_us bigint;
    first_us bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    b := budget_1(my_account, at_us);
    now_us := b.seen_us;
    SELECT coalesce(sum(p.held), 0) INTO others FROM place p
        WHERE p.account = my_account AND p.replica <> me AND p.until_us > now_us;
    IF interval_us > 0 AND owed_us > 0 THEN
        b.arrival_us := greatest(b.arrival_us, now_us + tolerance_us + greatest(owed_us, interval_us));
    END IF;
    IF creates_interval_us > 0 AND creates_owed_us > 0 THEN
        b.creates_us := greatest(b.creates_us,
            now_us + creates_tolerance_us + greatest(creates_owed_us, creates_interval_us));
    END IF;

    -- The time from which a slot of all requests may be given.
    is_for_longest := purpose = 'P' AND slots > 0 AND b.since_longest + 1 >= 10;
    IF slots > 0 THEN
        requests_us := b.arrival_us
            - CASE WHEN purpose = 'F' OR is_for_longest THEN tolerance_us ELSE tolerance_us / 1000 * 500 END;
        IF NOT is_for_longest
            AND (b.longest_wanted_us > now_us OR (purpose <> 'F' AND b.create_wanted_us > now_us))
        THEN
            requests_us := greatest(requests_us, b.arrival_us + interval_us - tolerance_us);
        END IF;
    END IF;
    most := CASE WHEN purpose = 'F' THEN places_max ELSE greatest(places_max - places_max / 8, 1) END;
    IF purpose <> 'F' AND b.create_wanted_us > now_us THEN
        most := least(most, places_max - 1);
    END IF;
    most := least(places, most - others);

    verdict := 'G';
    wait_us := 0;
    given := 0;
    held := in_flight;
    -- A null counts for nothing here.
    opens_us := greatest(requests_us,
        CASE WHEN creates_interval_us > 0 THEN b.creates_us - creates_tolerance_us END);
    IF b.paused_until_us > now_us THEN
        verdict := 'L';
        wait_us := b.paused_until_us - now_us;
    ELSIF opens_us > now_us THEN
        verdict := 'L';
        wait_us := opens_us - now_us;
        IF purpose = 'F' AND opens_us = requests_us THEN
            b.create_wanted_us := greatest(b.create_wanted_us, opens_us + least(interval_us, 5000000));
        ELSIF is_for_longest THEN
            b.longest_wanted_us := greatest(b.longest_wanted_us, opens_us + 1000000);
        ELSIF purpose = 'P' AND slots > 0 THEN
            -- Comes back when the longest overdue's turn is, if that is earlier.
            longest_us := b.arrival_us - tolerance_us + (9 - b.since_longest) * interval_us;
            IF longest_us > now_us THEN
                wait_us := least(opens_us, longest_us) - now_us;
            END IF;
        END IF;
    ELSIF places > in_flight AND most <= in_flight THEN
        verdict := 'B';
        IF purpose = 'F' THEN
            b.create_wanted_us := greatest(b.create_wanted_us, now_us + 1000000);
        END IF;
    END IF;
    arrival_in_us := b.arrival_us - now_us;
    creates_in_us := b.creates_us - now_us;
    IF verdict = 'G' THEN
        held := greatest(most, in_flight);
        IF purpose = 'F' THEN
            b.create_wanted_us := 0;
        END IF;
        IF slots > 0 THEN
            given := least(slots, 1000000 / nullif(interval_us, 0));
            IF purpose = 'P' THEN
                given := least(given, 9 - b.since_longest);
            END IF;
            given := greatest(given, 1);
            IF is_for_longest THEN
                b.since_longest := 0;
                b.longest_wanted_us := 0;
            ELSE
                b.since_longest := least(b.since_longest + given, 10);
            END IF;
            first_us := greatest(b.arrival_us, now_us);
            arrival_in_us := first_us - now_us;
            b.arrival_us := first_us + given * interval_us;
        END IF;
        IF creates_interval_us > 0 THEN
            first_us := greatest(b.creates_us, now_us);
            creates_in_us := first_us - now_us;
            b.creates_us := first_us + creates_interval_us;
        END IF;
    END IF;
    UPDATE budget r SET arrival_us = b.arrival_us, creates_us = b.creates_us,
            paused_until_us = b.paused_until_us, unreachable_until_us = b.unreachable_until_us,
            create_wanted_us = b.create_wanted_us, longest_wanted_us = b.longest_wanted_us,
            since_longest = b.since_longest, seen_us = b.seen_us
        WHERE r.account = my_account;
    PERFORM hold_1(my_account, me, held, now_us + lasts_us, now_us);
    paused_us := greatest(b.paused_until_us - now_us, 0);
    unreachable_us := greatest(b.unreachable_until_us - now_us, 0);
    slowed_now := slowed_1(b, now_us);
    slowed_of := b.slowed_full;
    RETURN NEXT;
END $function$;

-- Keeps what a process has learned of an account, and the requests that it has in flight there. 0 stands for
-- nothing learned.
CREATE FUNCTION tell_1(
    my_account text, me text, my_paused_us bigint, my_unreachable_us bigint, my_slowed_to bigint,
    my_slowed_full bigint, in_flight bigint, lasts_us bigint, at_us bigint
) RETURNS TABLE (paused_us bigint, unreachable_us bigint, slowed_now bigint, slowed_of bigint)
LANGUAGE plpgsql SET lock_timeout = '5s' SET jit = off AS $function$
DECLARE
    b budget;
    now_us bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    b := budget_1(my_account, at_us);
    now_us := b.seen_us;
    IF my_paused_us > 0 THEN
        b.paused_until_us := greatest(b.paused_until_us, now_us + least(my_paused_us, 3600000000));
    END IF;
    IF my_unreachable_us > 0 THEN
        b.unreachable_until_us := greatest(b.unreachable_until_us,
            now_us + least(my_unreachable_us, 61000000));
    END IF;
    slowed_now := slowed_1(b, now_us);
    IF my_slowed_to > 0 AND (slowed_now = 0 OR my_slowed_to < slowed_now) THEN
        b.slowed_to := my_slowed_to;
        b.slowed_full := my_slowed_full;
        b.slowed_us := now_us;
        slowed_now := slowed_1(b, now_us);
    END IF;
    slowed_of := b.slowed_full;
    UPDATE budget r SET paused_until_us = b.paused_until_us,
            unreachable_until_us = b.unreachable_until_us, slowed_to = b.slowed_to,
            slowed_full = b.slowed_full, slowed_us = b.slowed_us, seen_us = b.seen_us
        WHERE r.account = my_account;
    PERFORM hold_1(my_account, me, in_flight, now_us + lasts_us, now_us);
    paused_us := greatest(b.paused_until_us - now_us, 0);
    unreachable_us := greatest(b.unreachable_until_us - now_us, 0);
    RETURN NEXT;
END $function$;
