-- qvec from psql: psql "$DATABASE_URL" -f examples/sql/walkthrough.sql
-- First install the schema: qvec sql install --db "$DATABASE_URL", or: qvec sql print | psql "$DATABASE_URL"
-- The vectors are synthetic: 64 dimensions, clustered around eight topics. Yours come from an embedding model.
\set ON_ERROR_STOP on
\pset footer off
SELECT setseed(0.5);
CREATE SCHEMA walkthrough;
SET search_path = walkthrough, public;

CREATE TABLE article (
    id bigint PRIMARY KEY,
    title text NOT NULL,
    topic int NOT NULL,
    published date NOT NULL,
    details jsonb NOT NULL,
    embedding vector(64) NOT NULL
);
CREATE TABLE centre AS
    SELECT topic, ARRAY(SELECT random() - 0.5 + 0 * (d + topic) FROM generate_series(1, 64) d)::real[] AS at
    FROM generate_series(0, 7) topic;
INSERT INTO article
    SELECT n, format('%s no. %s', (ARRAY['physics', 'cooking', 'music', 'law', 'chess', 'sailing', 'history', 'gardens'])[1 + n % 8], n),
           n % 8, date '2020-01-01' + (n % 1500)::int, jsonb_build_object('lang', CASE WHEN n % 3 = 0 THEN 'de' ELSE 'en' END, 'year', 2020 + n % 5),
           ARRAY(SELECT c + (random() - 0.5) / 2 + 0 * n FROM unnest(at) c)::vector
    FROM generate_series(1, 4000) n JOIN centre ON topic = n % 8;

-- 1. Fit a calibration to a random sample of the table's vectors. It defines how the floats of the model become codes.
SELECT qvec.calibrate('article', 'embedding', sample_size => 2000, model => 'synthetic') AS calibration \gset
SELECT dimensions, metadata -> 'method' AS method, metadata -> 'sample' AS sample
    FROM qvec.calibration WHERE id = :'calibration';

-- 2. Make the table a collection: it gets a column of codes, which a trigger keeps current. The procedure fills the column
--    and commits after each batch; psql then builds the index concurrently. Neither locks the table for long.
SELECT qvec.attach('article', 'embedding', :'calibration', document_column => 'title', metadata_column => 'details');
CALL qvec.backfill('article');
SELECT qvec.index_statement('article') \gexec
SELECT collection, percent, rows_done, finished FROM qvec.backfills;

-- 3. Search: the index finds candidates by their prefilter bits; then their codes are scored against the query's floats.
SELECT id, round(score::numeric, 1) AS score, document
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 3);

--    With a filter on the metadata, in the filter language of the SDK.
SELECT id, document, metadata
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 3,
                     filter => '{"lang": "de", "year": {"$gte": 2022}}');

--    Many queries in one call.
SELECT query, count(*), min(document) LIKE 'cooking%' AS cooking
    FROM qvec.search('article', ARRAY(SELECT embedding FROM article WHERE id IN (1, 10) ORDER BY id), k => 5)
    GROUP BY query ORDER BY query;

-- 4. A new row is found immediately; the trigger makes its codes.
INSERT INTO article SELECT 5000, 'new: ' || title, topic, published, details, embedding FROM article WHERE id = 4;
SELECT count(*) FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 4), k => 2) WHERE id = '5000';

-- 5. Join a search with your own tables and filter by their columns: request more hits, then limit.
SELECT a.id, a.title, a.published
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 50) AS hit
    JOIN article AS a ON a.id = hit.id::bigint
    WHERE a.published < '2021-01-01'
    ORDER BY hit.score DESC LIMIT 3;

-- 6. Hybrid search: vector and full-text ranks combined by reciprocal rank fusion.
WITH near AS (
    SELECT id::bigint, row_number() OVER (ORDER BY score DESC) AS place
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 40)
), worded AS (
    SELECT id, row_number() OVER (ORDER BY ts_rank(to_tsvector('simple', title), query) DESC, id) AS place
    FROM article, to_tsquery('simple', 'sailing & 77') AS query
    WHERE to_tsvector('simple', title) @@ query
    LIMIT 40
)
SELECT id, title
    FROM (SELECT id, sum(1.0 / (60 + place)) AS fused FROM (TABLE near UNION ALL TABLE worded) AS lists GROUP BY id) AS ranked
    JOIN article USING (id)
    ORDER BY fused DESC LIMIT 1;

-- 7. Row-level security applies: a search runs with the rights of its caller and returns only rows that the caller can see.
--        ALTER TABLE article ENABLE ROW LEVEL SECURITY;
--        CREATE POLICY tenant ON article USING (details ->> 'tenant' = current_setting('app.tenant'));

-- 8. Drift: have newer rows moved away from the rows that the calibration was fitted to?
SELECT rows, round(largest_mean_shift::numeric, 0) AS shift, round(mean_bit_balance::numeric, 1) AS balance
    FROM qvec.drift('article', sample_size => 500);

-- 9. Or let qvec create the table. Write to it by plain INSERT; it keeps codes and no floats.
SELECT qvec.create_collection('notes', :'calibration', rescore => 'int4', in_schema => 'walkthrough');
INSERT INTO notes (id, embedding_in, document, metadata) SELECT id, embedding, title, details FROM article WHERE id <= 100;
SELECT id, document FROM qvec.search('notes', (SELECT embedding FROM article WHERE id = 42), k => 1);
SELECT name, rescore, attached, has_index FROM qvec.collections ORDER BY name;

-- Clean up.
SELECT qvec.drop_collection('notes');
SELECT qvec.detach('article');
DELETE FROM qvec.calibration WHERE id = :'calibration';
SET client_min_messages = warning;
DROP SCHEMA walkthrough CASCADE;
