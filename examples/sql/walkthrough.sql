-- qvec with nothing but psql: psql "$DATABASE_URL" -f examples/sql/walkthrough.sql
-- First install the schema: qvec sql install --db "$DATABASE_URL", or: qvec sql print | psql "$DATABASE_URL"
-- The vectors here are made up, 64 dimensions around eight topics; an embedding model's come from your application.
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

-- 1. How the model's floats become codes: a calibration, fitted to a random sample of the table's own vectors.
SELECT qvec.calibrate('article', 'embedding', sample_size => 2000, model => 'made up') AS calibration \gset
SELECT dimensions, metadata -> 'method' AS method, metadata -> 'sample' AS sample
    FROM qvec.calibration WHERE id = :'calibration';

-- 2. The table becomes a collection: a column of codes, kept by a trigger. The procedure fills it in batches that it
--    commits; then psql runs the statement that builds the index concurrently. Neither locks the table for long.
SELECT qvec.attach('article', 'embedding', :'calibration', document_column => 'title', metadata_column => 'details');
CALL qvec.backfill('article');
SELECT qvec.index_statement('article') \gexec
SELECT collection, percent, rows_done, finished FROM qvec.backfills;

-- 3. Search: the prefilter's bits on the index, then the codes scored against the query's floats.
SELECT id, round(score::numeric, 1) AS score, document
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 3);

--    With a filter on the metadata, in the language of the SDK.
SELECT id, document, metadata
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 3,
                     filter => '{"lang": "de", "year": {"$gte": 2022}}');

--    Many queries in one call.
SELECT query, count(*), min(document) LIKE 'cooking%' AS cooking
    FROM qvec.search('article', ARRAY(SELECT embedding FROM article WHERE id IN (1, 10) ORDER BY id), k => 5)
    GROUP BY query ORDER BY query;

-- 4. A new row is found at once; its codes come from the trigger.
INSERT INTO article SELECT 5000, 'new: ' || title, topic, published, details, embedding FROM article WHERE id = 4;
SELECT count(*) FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 4), k => 2) WHERE id = '5000';

-- 5. A search joined with the application's own tables, and conditions on its columns: ask for more, then cut.
SELECT a.id, a.title, a.published
    FROM qvec.search('article', (SELECT embedding FROM article WHERE id = 77), k => 50) AS hit
    JOIN article AS a ON a.id = hit.id::bigint
    WHERE a.published < '2021-01-01'
    ORDER BY hit.score DESC LIMIT 3;

-- 6. Hybrid search: vector and full-text ranks joined by reciprocal rank fusion.
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

-- 7. Row-level security holds: a search runs with the caller's rights, and sees the rows that the caller sees.
--        ALTER TABLE article ENABLE ROW LEVEL SECURITY;
--        CREATE POLICY tenant ON article USING (details ->> 'tenant' = current_setting('app.tenant'));

-- 8. Have newer rows moved away from what was calibrated on?
SELECT rows, round(largest_mean_shift::numeric, 0) AS shift, round(mean_bit_balance::numeric, 1) AS balance
    FROM qvec.drift('article', sample_size => 500);

-- 9. Or let qvec keep the rows: a table of its own, into which plain INSERT writes; no floats are kept.
SELECT qvec.create_collection('notes', :'calibration', rescore => 'int4', in_schema => 'walkthrough');
INSERT INTO notes (id, embedding_in, document, metadata) SELECT id, embedding, title, details FROM article WHERE id <= 100;
SELECT id, document FROM qvec.search('notes', (SELECT embedding FROM article WHERE id = 42), k => 1);
SELECT name, rescore, attached, has_index FROM qvec.collections ORDER BY name;

-- It was only a walk: nothing is left behind.
SELECT qvec.drop_collection('notes');
SELECT qvec.detach('article');
DELETE FROM qvec.calibration WHERE id = :'calibration';
SET client_min_messages = warning;
DROP SCHEMA walkthrough CASCADE;
