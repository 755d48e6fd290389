-- The id of the attempt under way, 16 bytes; set if and only if submit_until is. An older file does not tell
-- it: whoever made such an attempt is gone.
ALTER TABLE purchase ADD COLUMN attempt_by BLOB;
UPDATE purchase SET attempt_by = randomblob(16) WHERE submit_until IS NOT NULL;
