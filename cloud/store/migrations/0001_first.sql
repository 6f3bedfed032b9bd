CREATE TABLE users (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    password TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_login_at BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE sessions (
    sum {{bytes}} PRIMARY KEY,
    user_name TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions(user_name);
CREATE INDEX sessions_expiry ON sessions(expires_at);
CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    user_name TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    sum {{bytes}} NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX api_tokens_user ON api_tokens(user_name, id);

CREATE TABLE devices (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    class TEXT NOT NULL,
    labels TEXT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    retired_at BIGINT NOT NULL,
    cert_expiry BIGINT NOT NULL,
    version BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    reported_at BIGINT NOT NULL DEFAULT 0,
    report TEXT NOT NULL DEFAULT '',
    base TEXT NOT NULL DEFAULT '',
    evidence TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (site, node)
);
CREATE INDEX devices_changed ON devices(changed);
CREATE TABLE timeline (
    id {{serial}},
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    at BIGINT NOT NULL,
    type TEXT NOT NULL,
    severity TEXT NOT NULL,
    message TEXT NOT NULL,
    rollout TEXT NOT NULL,
    release_id TEXT NOT NULL
);
CREATE INDEX timeline_device ON timeline(site, node, id);

CREATE TABLE enroll_tokens (
    hash {{bytes}} PRIMARY KEY,
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    class TEXT NOT NULL,
    labels TEXT NOT NULL,
    actor TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    void BIGINT NOT NULL,
    used BIGINT NOT NULL,
    serial TEXT NOT NULL,
    pubkey {{bytes}} NOT NULL
);
CREATE INDEX enroll_tokens_created ON enroll_tokens(created);
CREATE INDEX enroll_tokens_device ON enroll_tokens(site, node);
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    pubkey {{bytes}} NOT NULL,
    parent TEXT NOT NULL,
    issued BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX certificates_device ON certificates(site, node);
CREATE INDEX certificates_expiry ON certificates(not_after);

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until BIGINT NOT NULL
);
CREATE TABLE rollouts (
    name TEXT PRIMARY KEY,
    created BIGINT NOT NULL,
    version BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX rollouts_created ON rollouts(created);
CREATE TABLE rollout_records (
    rollout TEXT NOT NULL REFERENCES rollouts(name) ON DELETE CASCADE,
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (rollout, site, node)
);
CREATE TABLE rollout_decisions (
    rollout TEXT NOT NULL REFERENCES rollouts(name) ON DELETE CASCADE,
    id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    doc {{bytes}} NOT NULL,
    PRIMARY KEY (rollout, id)
);
CREATE TABLE desired (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    generation BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    published INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (site, node)
);
CREATE INDEX desired_waiting ON desired(published, changed);

CREATE TABLE model_versions (
    id {{serial}},
    family TEXT NOT NULL,
    counter BIGINT NOT NULL,
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    reason TEXT NOT NULL,
    doc TEXT NOT NULL,
    UNIQUE (family, counter, run)
);

CREATE TABLE objects (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE TABLE idempotency (
    actor TEXT NOT NULL,
    key TEXT NOT NULL,
    request {{bytes}} NOT NULL,
    status INTEGER NOT NULL,
    body {{bytes}} NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_created ON idempotency(created);

CREATE TABLE release_counters (
    name TEXT PRIMARY KEY,
    counter BIGINT NOT NULL
);
CREATE TABLE releases (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    counter BIGINT NOT NULL,
    run TEXT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX releases_name ON releases(name, counter);
