-- Tells the processes that share the database that transitions were committed. A process that has it alone has
-- nobody to tell.
CREATE FUNCTION hint_1() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF EXISTS (SELECT FROM news) AND EXISTS (SELECT FROM replica WHERE NOT is_alone AND NOT is_gone) THEN
        PERFORM pg_notify('tillwatch', '');
    END IF;
    RETURN null;
END $function$;

-- Processes that commit have the lock that orders the feed by then, so that the server's own lock of notifications
-- holds nobody up.
CREATE TRIGGER hint AFTER INSERT ON transition_log REFERENCING NEW TABLE AS news
    FOR EACH STATEMENT EXECUTE FUNCTION hint_1();
