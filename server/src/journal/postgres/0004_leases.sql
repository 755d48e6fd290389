-- True if the lease of an account is held under this fence. A lease that nobody ever took is held by everybody
-- under 0: the store has had one process.
CREATE FUNCTION is_held_1(my_account text, my_fence bigint) RETURNS boolean LANGUAGE sql STABLE AS $function$
    SELECT coalesce((SELECT l.owner IS NOT NULL AND l.fence = my_fence FROM lease l WHERE l.account = my_account),
        my_fence = 0)
$function$;

-- Shows that a process lives, renews the leases that it still holds under these fences, and returns all
-- replicas and leases. Nothing is lost with a renewal but time, so that it does not wait for the disk.
CREATE FUNCTION look_1(me text, lasts bigint, my_accounts text[], my_fences bigint[])
RETURNS TABLE (
    o_is_lease boolean, o_name text, o_owner text, o_fence bigint, o_beat bigint,
    -- Of a replica, if it is leaving; of a lease, if it has expired.
    o_is_ending boolean
) LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE replica r SET beat = r.beat + 1, seen = now_1() WHERE r.id = me AND NOT r.is_gone;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another process has the store' USING ERRCODE = 'TW001';
    END IF;
    UPDATE lease l SET beat = l.beat + 1, expires = now_1() + lasts
        FROM unnest(my_accounts, my_fences) m (account, fence)
        WHERE l.account = m.account AND l.fence = m.fence AND l.owner IS NOT NULL;
    RETURN QUERY SELECT false, r.id, null::text, 0::bigint, r.beat, r.is_leaving
        FROM replica r WHERE NOT r.is_gone;
    RETURN QUERY SELECT true, l.account, l.owner, l.fence, l.beat, l.expires <= now_1() FROM lease l;
END $function$;

-- Takes a lease that is still as it was seen; null as seen stands for one that was never taken. Returns the new
-- fence, or null. No commit under an older fence can follow: whoever commits looks at its fence under the same
-- lock. Does not wait long, since the caller's next look must not be late.
CREATE FUNCTION take_1(me text, lasts bigint, my_account text, seen_fence bigint, seen_beat bigint)
RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '500ms' AS $function$
DECLARE
    taken bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1, 1);
    IF NOT EXISTS (SELECT FROM replica r WHERE r.id = me AND NOT r.is_gone) THEN
        RAISE EXCEPTION 'another process has the store' USING ERRCODE = 'TW001';
    END IF;
    IF seen_fence IS NULL THEN
        INSERT INTO lease (account, owner, fence, beat, expires) VALUES (my_account, me, 1, 0, now_1() + lasts)
            ON CONFLICT (account) DO NOTHING RETURNING fence INTO taken;
    ELSE
        UPDATE lease l SET owner = me, fence = l.fence + 1, beat = 0, expires = now_1() + lasts
            WHERE l.account = my_account AND l.fence = seen_fence AND l.beat = seen_beat
            RETURNING l.fence INTO taken;
    END IF;
    RETURN taken;
END $function$;

-- Gives a lease back, if it is still held under this fence.
CREATE FUNCTION release_1(my_account text, my_fence bigint) RETURNS void LANGUAGE sql
SET lock_timeout = '500ms' AS $function$
    UPDATE lease SET owner = null WHERE account = my_account AND fence = my_fence
$function$;

-- Tells that a process gives its accounts away and takes no more.
CREATE FUNCTION leave_1(me text) RETURNS void LANGUAGE sql AS $function$
    UPDATE replica SET is_leaving = true WHERE id = me
$function$;
