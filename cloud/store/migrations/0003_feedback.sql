-- Images that devices uploaded (their bytes are objects), what people say of
-- them and of stretches of time, and which data each model version came from.
CREATE TABLE frames (
    identity TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    class TEXT NOT NULL,
    at BIGINT NOT NULL,
    top TEXT NOT NULL,
    doubt DOUBLE PRECISION NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX frames_time ON frames(at, identity);
CREATE INDEX frames_digest ON frames(digest, at);
CREATE INDEX frames_device ON frames(site, node, at);
CREATE TABLE labels (
    target TEXT PRIMARY KEY,
    frame TEXT NOT NULL,
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    class TEXT NOT NULL,
    begins BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX labels_time ON labels(begins, target);
CREATE INDEX labels_frame ON labels(frame);
CREATE INDEX labels_device ON labels(site, node, begins);
CREATE TABLE lineage (
    digest TEXT NOT NULL,
    family TEXT NOT NULL,
    counter BIGINT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (digest, family, counter, kind)
);
CREATE INDEX lineage_version ON lineage(family, counter, kind);
CREATE TABLE collections (
    id {{serial}},
    at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
