-- Keys are remembered from when their purchase became FINAL, by retention's own clock: the time of
-- creation is the wall clock's, which may have been wrong.
DROP INDEX purchase_remnant;
CREATE INDEX purchase_remnant ON purchase (final_time, id) WHERE remnant IS NOT NULL;
