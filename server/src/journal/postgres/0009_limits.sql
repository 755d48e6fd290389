-- The limits by which each process is configured, by account: JSON, and empty if its build does not tell.
ALTER TABLE replica ADD COLUMN limits text NOT NULL DEFAULT '';

-- Tells the other processes the limits by which this one is configured.
CREATE FUNCTION configure_1(me text, my_limits text) RETURNS void LANGUAGE sql AS $function$
    UPDATE replica SET limits = my_limits WHERE id = me
$function$;
