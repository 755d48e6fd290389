-- One commit is one call of commit_1: no lock here ever waits for a client. Each statement of the function
-- takes a new snapshot, so that it sees everything that was committed before the lock was given.
--
-- The items of a batch are numbered from 1 to `items`. Each array's part with `n` names the item. At most
-- one item is about a purchase, a key of a caller, a reference or a text.
--
-- Returns the constant facts of each purchase that there was and that gets a transition, and at last a row
-- without an id: a character for each item (D done, F fenced, K key taken, R reference taken, S stale, X another
-- purchase has the id, P the previous status has to be looked at), and the position of each transition, null
-- for those of items that are not done.
--
-- Other processes commit at the same time. A row or a unique key that one of them is about to write is waited
-- for; a unique key that it then has ends the call (23505). What no row or unique key stands for is looked at
-- twice: before the work, and once more under the lock that orders the feed. If it has changed in between, the
-- call ends (TW002). Nothing is done then, and the same call answers it.
CREATE FUNCTION commit_1(
    me text, my_opening bigint, my_number bigint, my_last bigint, items integer,
    -- The attentions about silence.
    silences text[],
    -- Items that only the owner of an account may make.
    f_n integer[], f_account text[], f_fence bigint[],
    -- Purchases that begin.
    b_n integer[], b_id uuid[], b_account text[], b_provider text[], b_caller text[], b_key text[],
    b_labels text[], b_create_time bigint[], b_revision integer[], b_state text[], b_finality text[],
    b_attention text[], b_reference bytea[], b_change_time bigint[], b_final_time bigint[],
    b_fingerprint_key text[], b_fingerprints bytea[], b_recovery text[], b_submit_until bigint[],
    b_attempt_by uuid[], b_first_send_time bigint[], b_sends integer[], b_note text[],
    -- Their labels.
    l_n integer[], l_purchase uuid[], l_key text[], l_value text[], l_caller text[], l_create_time bigint[],
    -- Further keys.
    k_n integer[], k_caller text[], k_key text[], k_purchase uuid[], k_fingerprint_key text[],
    k_fingerprints bytea[], k_bind_time bigint[],
    -- Purchases that change, if they are as expected. Without a revision the attempt alone changes.
    c_n integer[], c_id uuid[], c_expected integer[], c_expected_attempt uuid[], c_expected_sends integer[],
    c_revision integer[], c_state text[], c_finality text[],
    c_attention text[], c_reference bytea[], c_change_time bigint[], c_is_judged boolean[],
    c_final_time bigint[], c_note text[], c_attempt text[], c_submit_until bigint[],
    c_attempt_by uuid[], c_now bigint[],
    -- Buyer actions that are wiped.
    w_n integer[], w_id uuid[], w_through integer[],
    -- Texts.
    t_n integer[], t_key text[], t_value text[],
    -- Transitions, in their order. The caller is that of a purchase that begins.
    s_n integer[], s_id uuid[], s_revision integer[], s_caller text[], s_from_state text[], s_cause text[],
    s_status text[], s_action text[]
) RETURNS TABLE (
    o_id uuid, o_account text, o_provider text, o_caller text, o_key text, o_labels text,
    o_create_time bigint, o_outcomes text, o_places bigint[]
) LANGUAGE plpgsql
SET lock_timeout = '5s' SET jit = off
-- One plan for all sizes of tables and batches, along the indexes: a plan that was made for empty tables
-- would read all of the full ones.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off
AS $function$
#variable_conflict use_column
DECLARE
    outcomes text[] := array_fill('D'::text, ARRAY[items]);
    is_changed boolean[] := array_fill(false, ARRAY[items]);
    callers text[] := array_fill(null::text, ARRAY[items]);
    places bigint[] := array_fill(null::bigint, ARRAY[cardinality(s_n)]);
    changed integer := 0;
    is_in_order boolean := false;
    item integer;
    refused text;
    has_revision boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(8, hashtext(me));
    IF NOT EXISTS (SELECT FROM replica r WHERE r.id = me AND r.opening = my_opening) THEN
        RAISE EXCEPTION 'another opening has the store' USING ERRCODE = 'TW001';
    END IF;

    FOR item IN
        SELECT f.n FROM unnest(f_n, f_account, f_fence) f (n, account, fence)
        WHERE NOT is_held_1(f.account, f.fence)
    LOOP
        outcomes[item] := 'F';
    END LOOP;

    IF cardinality(b_n) > 0 THEN
        FOR item, refused IN
            SELECT b.n, CASE
                WHEN EXISTS (SELECT FROM purchase p WHERE p.caller = b.caller AND p.key = b.key)
                    OR EXISTS (SELECT FROM bound_key k WHERE k.caller = b.caller AND k.key = b.key)
                    THEN 'K'
                WHEN EXISTS (SELECT FROM purchase p WHERE p.id = b.id) THEN 'X'
                ELSE 'R' END
            FROM unnest(b_n, b_id, b_account, b_caller, b_key, b_reference)
                b (n, id, account, caller, key, reference)
            WHERE EXISTS (SELECT FROM purchase p WHERE p.caller = b.caller AND p.key = b.key)
                OR EXISTS (SELECT FROM bound_key k WHERE k.caller = b.caller AND k.key = b.key)
                OR EXISTS (SELECT FROM purchase p WHERE p.id = b.id)
                OR EXISTS (SELECT FROM purchase p WHERE p.account = b.account
                    AND p.reference = b.reference AND p.reference IS NOT NULL AND p.remnant IS NULL)
        LOOP
            outcomes[item] := refused;
        END LOOP;
        INSERT INTO purchase (id, account, provider, caller, key, labels, create_time, revision, state,
                finality, attention, reference, change_time, final_time, fingerprint_key, fingerprints,
                recovery, submit_until, attempt_by, first_send_time, sends, resolution_note)
            SELECT b.id, b.account, b.provider, b.caller, b.key, b.labels, b.create_time, b.revision, b.state,
                b.finality, b.attention, b.reference, b.change_time, b.final_time, b.fingerprint_key,
                b.fingerprints, b.recovery, b.submit_until, b.attempt_by, b.first_send_time, b.sends, b.note
            FROM unnest(b_n, b_id, b_account, b_provider, b_caller, b_key, b_labels, b_create_time, b_revision,
                    b_state, b_finality, b_attention, b_reference, b_change_time, b_final_time,
                    b_fingerprint_key, b_fingerprints, b_recovery, b_submit_until, b_attempt_by,
                    b_first_send_time, b_sends, b_note)
                b (n, id, account, provider, caller, key, labels, create_time, revision, state, finality,
                    attention, reference, change_time, final_time, fingerprint_key, fingerprints, recovery,
                    submit_until, attempt_by, first_send_time, sends, note)
            WHERE outcomes[b.n] = 'D';
        INSERT INTO purchase_label (purchase, key, value, caller, create_time)
            SELECT l.purchase, l.key, l.value, l.caller, l.create_time
            FROM unnest(l_n, l_purchase, l_key, l_value, l_caller, l_create_time)
                l (n, purchase, key, value, caller, create_time)
            WHERE outcomes[l.n] = 'D';
    END IF;

    IF cardinality(k_n) > 0 THEN
        FOR item, refused IN
            SELECT k.n, CASE
                WHEN EXISTS (SELECT FROM purchase p WHERE p.caller = k.caller AND p.key = k.key)
                    OR EXISTS (SELECT FROM bound_key o WHERE o.caller = k.caller AND o.key = k.key)
                    THEN 'K'
                ELSE 'S' END
            FROM unnest(k_n, k_caller, k_key, k_purchase) k (n, caller, key, purchase)
            WHERE EXISTS (SELECT FROM purchase p WHERE p.caller = k.caller AND p.key = k.key)
                OR EXISTS (SELECT FROM bound_key o WHERE o.caller = k.caller AND o.key = k.key)
                OR NOT EXISTS (SELECT FROM purchase p WHERE p.id = k.purchase AND p.remnant IS NULL)
        LOOP
            outcomes[item] := refused;
        END LOOP;
        INSERT INTO bound_key (caller, key, purchase, fingerprint_key, fingerprints, bind_time)
            SELECT k.caller, k.key, k.purchase, k.fingerprint_key, k.fingerprints, k.bind_time
            FROM unnest(k_n, k_caller, k_key, k_purchase, k_fingerprint_key, k_fingerprints, k_bind_time)
                k (n, caller, key, purchase, fingerprint_key, fingerprints, bind_time)
            WHERE outcomes[k.n] = 'D';
    END IF;

    IF cardinality(c_n) > 0 THEN
        FOR item, has_revision, o_id, o_account, o_provider, o_caller, o_key, o_labels, o_create_time IN
            UPDATE purchase p SET
                revision = coalesce(c.revision, p.revision),
                state = coalesce(c.state, p.state),
                finality = coalesce(c.finality, p.finality),
                attention = CASE WHEN c.revision IS NULL THEN p.attention ELSE c.attention END,
                reference = CASE WHEN c.revision IS NULL THEN p.reference ELSE c.reference END,
                change_time = coalesce(c.change_time, p.change_time),
                final_time = CASE WHEN c.revision IS NULL THEN p.final_time ELSE c.final_time END,
                resolution_note = coalesce(c.note, p.resolution_note),
                submit_until = CASE WHEN c.attempt IN ('keep', 'undate') THEN p.submit_until
                    WHEN c.attempt = 'extend' AND p.attempt_by IS NULL THEN null
                    ELSE c.submit_until END,
                attempt_by = CASE WHEN c.attempt IN ('keep', 'undate', 'extend') THEN p.attempt_by
                    ELSE c.attempt_by END,
                first_send_time = CASE c.attempt
                    WHEN 'begin' THEN coalesce(p.first_send_time, c.now)
                    WHEN 'accepted' THEN 0
                    WHEN 'unsent' THEN null
                    WHEN 'undate' THEN p.first_send_time * 0
                    ELSE p.first_send_time END,
                sends = CASE c.attempt WHEN 'begin' THEN p.sends + 1 WHEN 'unsent' THEN 0 ELSE p.sends END
            FROM unnest(c_n, c_id, c_expected, c_expected_attempt, c_expected_sends, c_revision, c_state,
                    c_finality, c_attention, c_reference, c_change_time, c_is_judged, c_final_time, c_note,
                    c_attempt, c_submit_until, c_attempt_by, c_now)
                c (n, id, expected, expected_attempt, expected_sends, revision, state, finality, attention,
                    reference, change_time, is_judged, final_time, note, attempt, submit_until, attempt_by,
                    now)
            WHERE outcomes[c.n] = 'D' AND p.id = c.id AND p.revision = c.expected
                AND p.sends = c.expected_sends AND coalesce(c.revision - 1 = c.expected, true)
                AND p.attempt_by IS NOT DISTINCT FROM c.expected_attempt AND p.finality <> 'FINAL' AND p.remnant IS NULL
                AND (c.reference IS NULL OR c.reference IS NOT DISTINCT FROM p.reference
                    OR NOT EXISTS (SELECT FROM purchase o WHERE o.account = p.account
                        AND o.reference = c.reference AND o.reference IS NOT NULL AND o.remnant IS NULL))
                AND (c.is_judged OR NOT (coalesce(p.attention = ANY (silences), false)
                    OR coalesce(c.attention = ANY (silences), false)))
            RETURNING c.n, c.revision IS NOT NULL, p.id, p.account, p.provider, p.caller, p.key, p.labels,
                p.create_time
        LOOP
            is_changed[item] := true;
            changed := changed + 1;
            IF has_revision THEN
                callers[item] := o_caller;
                RETURN NEXT;
            END IF;
        END LOOP;
        IF changed < cardinality(c_n) THEN
            FOR item, refused IN
                SELECT c.n, CASE
                    WHEN p.id IS NULL OR p.revision <> c.expected OR p.sends <> c.expected_sends
                        OR p.attempt_by IS DISTINCT FROM c.expected_attempt OR p.finality = 'FINAL'
                        OR c.revision - 1 <> c.expected
                        THEN 'S'
                    WHEN c.reference IS DISTINCT FROM p.reference
                        AND EXISTS (SELECT FROM purchase o WHERE o.account = p.account
                            AND o.reference = c.reference AND o.reference IS NOT NULL
                            AND o.remnant IS NULL)
                        THEN 'R'
                    ELSE 'P' END
                FROM unnest(c_n, c_id, c_expected, c_expected_attempt, c_expected_sends, c_revision,
                        c_reference)
                    c (n, id, expected, expected_attempt, expected_sends, revision, reference)
                LEFT JOIN purchase p ON p.id = c.id AND p.remnant IS NULL
                WHERE outcomes[c.n] = 'D' AND NOT is_changed[c.n]
            LOOP
                outcomes[item] := refused;
            END LOOP;
        END IF;
    END IF;

    IF cardinality(w_n) > 0 THEN
        DELETE FROM buyer_action a USING unnest(w_n, w_id, w_through) w (n, id, through)
            WHERE a.purchase = w.id AND a.revision <= w.through AND outcomes[w.n] = 'D';
    END IF;

    IF cardinality(t_key) > 0 THEN
        INSERT INTO kept_text (key, value)
            SELECT t.key, t.value FROM unnest(t_n, t_key, t_value) t (n, key, value)
            WHERE outcomes[t.n] = 'D'
            ON CONFLICT (key) DO UPDATE SET value = excluded.value;
    END IF;

    -- The order of the feed: whoever has this lock draws positions, and lets it go with the commit. So a
    -- reader that sees a position sees all before it, and whoever takes a lease or a key sees all that was
    -- committed without it. Nothing after this waits for anybody.
    is_in_order := coalesce((SELECT bool_or(outcomes[n] = 'D') FROM unnest(f_n || k_n || s_n) n), false);
    IF is_in_order THEN
        PERFORM pg_advisory_xact_lock(1, 1);
        -- A statement of its own: one that takes the lock as well sees what was there before it waited.
        IF EXISTS (SELECT FROM unnest(f_n, f_account, f_fence) f (n, account, fence)
                WHERE outcomes[f.n] = 'D' AND NOT is_held_1(f.account, f.fence))
            OR EXISTS (SELECT FROM unnest(b_n, b_caller, b_key) b (n, caller, key)
                JOIN bound_key k ON k.caller = b.caller AND k.key = b.key WHERE outcomes[b.n] = 'D')
            OR EXISTS (SELECT FROM unnest(k_n, k_caller, k_key) k (n, caller, key)
                JOIN purchase p ON p.caller = k.caller AND p.key = k.key WHERE outcomes[k.n] = 'D')
        THEN
            RAISE EXCEPTION 'another commit came in between' USING ERRCODE = 'TW002';
        END IF;
        FOR i IN 1 .. cardinality(s_n) LOOP
            IF outcomes[s_n[i]] = 'D' THEN
                places[i] := nextval('feed_position');
            END IF;
        END LOOP;
        INSERT INTO transition_log (position, purchase, revision, caller, from_state, cause, status)
            SELECT places[s.i], s.id, s.revision, coalesce(s.caller, callers[s.n]), s.from_state, s.cause, s.status
            FROM unnest(s_n, s_id, s_revision, s_caller, s_from_state, s_cause, s_status) WITH ORDINALITY
                s (n, id, revision, caller, from_state, cause, status, i)
            WHERE places[s.i] IS NOT NULL;
        INSERT INTO buyer_action (purchase, revision, action)
            SELECT s.id, s.revision, s.action
            FROM unnest(s_id, s_revision, s_action) WITH ORDINALITY s (id, revision, action, i)
            WHERE places[s.i] IS NOT NULL AND s.action IS NOT NULL;
    END IF;

    o_id := null;
    o_outcomes := array_to_string(outcomes, '');
    o_places := places;
    -- An empty batch tries if the store can be written.
    IF items = 0 OR strpos(o_outcomes, 'D') > 0 THEN
        DELETE FROM commit_answer a
            WHERE a.replica = me AND a.opening = my_opening AND a.number = my_last;
        INSERT INTO commit_answer (replica, opening, number, outcomes, places)
            VALUES (me, my_opening, my_number, o_outcomes, places);
    END IF;
    RETURN NEXT;
END $function$;

-- Makes remnants of the oldest FINAL purchases and deletes the oldest remnants, until about `most` rows are
-- gone. Returns their number; null if the caller does not keep house. Its answer is kept as a commit's, with that
-- number as the only place.
CREATE FUNCTION retire_1(
    me text, my_opening bigint, my_number bigint, my_last bigint,
    my_account text, my_fence bigint,
    finals_before bigint, remnants_before bigint, most bigint, floor_key text
) RETURNS bigint LANGUAGE plpgsql
SET lock_timeout = '5s' SET jit = off SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off
AS $function$
DECLARE
    gone bigint;
    taken uuid[];
    final record;
BEGIN
    PERFORM pg_advisory_xact_lock(8, hashtext(me));
    IF NOT EXISTS (SELECT FROM replica r WHERE r.id = me AND r.opening = my_opening) THEN
        RAISE EXCEPTION 'another opening has the store' USING ERRCODE = 'TW001';
    END IF;
    IF NOT is_held_1(my_account, my_fence) THEN
        RETURN null;
    END IF;

    -- The oldest remnants go first, so that none is made and deleted by one call.
    taken := ARRAY(SELECT p.id FROM purchase p
        WHERE p.remnant IS NOT NULL AND p.final_time < remnants_before
            AND NOT EXISTS (SELECT FROM bound_key k
                WHERE k.purchase = p.id AND k.bind_time >= remnants_before)
        ORDER BY p.final_time, p.id LIMIT most);
    DELETE FROM bound_key k WHERE k.purchase = ANY (taken);
    DELETE FROM purchase p WHERE p.id = ANY (taken);
    gone := cardinality(taken);

    taken := '{}';
    FOR final IN
        SELECT p.id, p.revision FROM purchase p
        WHERE p.final_time IS NOT NULL AND p.remnant IS NULL AND p.final_time < finals_before
        ORDER BY p.final_time, p.id LIMIT most - gone
    LOOP
        EXIT WHEN gone >= most;
        gone := gone + final.revision + 1;
        taken := taken || final.id;
    END LOOP;
    IF cardinality(taken) > 0 THEN
        -- A token from before the newest position that is taken has missed a transition.
        INSERT INTO kept_text (key, value)
            SELECT floor_key, max(t.position)::text FROM transition_log t WHERE t.purchase = ANY (taken)
            ON CONFLICT (key) DO UPDATE
                SET value = greatest(kept_text.value::bigint, excluded.value::bigint)::text;
        UPDATE purchase p SET remnant = t.status FROM transition_log t
            WHERE p.id = ANY (taken) AND t.purchase = p.id AND t.revision = p.revision;
        DELETE FROM purchase_label l WHERE l.purchase = ANY (taken);
        DELETE FROM buyer_action a WHERE a.purchase = ANY (taken);
        DELETE FROM transition_log t WHERE t.purchase = ANY (taken);
    END IF;

    IF gone > 0 THEN
        PERFORM pg_advisory_xact_lock(1, 1);
        IF NOT is_held_1(my_account, my_fence) THEN
            RAISE EXCEPTION 'another commit came in between' USING ERRCODE = 'TW002';
        END IF;
        DELETE FROM commit_answer a
            WHERE a.replica = me AND a.opening = my_opening AND a.number = my_last;
        INSERT INTO commit_answer (replica, opening, number, outcomes, places)
            VALUES (me, my_opening, my_number, 'T', ARRAY[gone]);
    END IF;
    RETURN gone;
END $function$;
