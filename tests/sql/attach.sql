CREATE TABLE articles (id bigint PRIMARY KEY, title text, embedding vector(8), data jsonb);
INSERT INTO articles
    SELECT n, 'article ' || n, ARRAY(SELECT sin(n * (i + 1)) + 0.2 * cos(n + i) FROM generate_series(0, 7) i)::vector,
           jsonb_build_object('year', 2000 + n % 25)
    FROM generate_series(1, 500) n;
INSERT INTO articles VALUES (501, 'no vector', NULL, NULL), (502, 'no direction', '[0,0,0,0,0,0,0,0]', NULL);

SELECT qvec.calibrate('articles', 'embedding');
DELETE FROM articles WHERE id = 502;
SELECT qvec.calibrate('articles', 'embedding') AS cal \gset
INSERT INTO articles VALUES (502, 'no direction', '[0,0,0,0,0,0,0,0]', NULL);

SELECT qvec.attach('articles', 'embedding', :'cal', document_column => 'title', metadata_column => 'data');
SELECT count(*), count(codes) FROM articles;
CALL qvec.backfill('articles', blocks_at_once => 2);
SELECT collection, blocks_done = blocks_total AS whole, percent, rows_done, rows_skipped, finished FROM qvec.backfills;
SELECT id FROM articles WHERE codes IS NULL ORDER BY id;
SELECT qvec.index_statement('articles');
SELECT qvec.index_statement('articles') \gexec

SELECT id, round(score::numeric, 2) AS score, document, metadata
    FROM qvec.search('articles', (SELECT embedding FROM articles WHERE id = 77), k => 1);
INSERT INTO articles (id, title, embedding) VALUES (600, 'new', '[8,7,6,5,4,3,2,1]');
SELECT id, document FROM qvec.search('articles', '[8,7,6,5,4,3,2,1]'::vector, k => 1);
SELECT has_index, attached FROM qvec.collections;

-- errors
INSERT INTO articles (id, embedding) VALUES (601, '[0,0,0,0,0,0,0,0]');
SELECT qvec.attach('articles', 'embedding', :'cal', 'again');
SELECT qvec.attach('articles', 'title', :'cal');
SELECT qvec.drop_collection('articles');

SELECT qvec.detach('articles');
SELECT column_name FROM information_schema.columns WHERE table_name = 'articles' ORDER BY ordinal_position;
