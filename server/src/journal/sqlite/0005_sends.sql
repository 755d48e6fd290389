-- How often the order was sent, without sends that are known to have reached nobody. An older file does
-- not tell; one send is enough to keep a refusal of a later one from speaking for the order.
ALTER TABLE purchase ADD COLUMN sends INTEGER NOT NULL DEFAULT 0;
UPDATE purchase SET sends = 1 WHERE first_send_time IS NOT NULL OR state = 'OUTCOME_UNKNOWN';
