-- The standing orders of people (freezes, quarantines): one document, changed
-- as a whole.
CREATE TABLE rollout_orders (
    id INTEGER PRIMARY KEY,
    version BIGINT NOT NULL,
    doc TEXT NOT NULL
);
