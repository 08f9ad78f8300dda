CREATE TABLE seed AS SELECT format('[%s,%s,%s]', x, y, z)::vector AS v
    FROM generate_series(-3, 3) x, generate_series(-3, 3) y, generate_series(-3, 3) z WHERE (x, y, z) <> (0, 0, 0);
SELECT qvec.calibrate('seed', 'v', threshold => 0) AS cal \gset

SELECT qvec.create_collection('docs', :'cal');
INSERT INTO docs (id, embedding_in, document, metadata) VALUES
    (1, '[1,2,3]', 'up', '{"lang": "en", "year": 2020}'),
    (2, '[-1,-2,-3]', 'down', '{"lang": "en", "year": 2024}'),
    (3, '[3,2,1]', 'across', '{"lang": "de", "tags": ["a", "b"]}'),
    (4, '[1,2,2.9]', 'nearly up', NULL);
SELECT id, codes, embedding_in, document FROM docs ORDER BY id;
SELECT qvec.build_index('docs');

SELECT id, round(score::numeric, 2) AS score, document FROM qvec.search('docs', '[1,2,3]'::vector, k => 3);
SELECT id, document FROM qvec.search('docs', '[1,2,3]'::vector, filter => '{"lang": "en"}');
SELECT id, document FROM qvec.search('docs', '[1,2,3]'::vector, filter => '{"$or": [{"tags": "b"}, {"year": {"$gt": 2020}}]}');
SELECT query, id FROM qvec.search('docs', ARRAY['[1,2,3]', '[3,2,1]']::vector[], k => 2);
SELECT id FROM docs WHERE qvec.matches(metadata, '{"year": {"$exists": true}}') ORDER BY id;
SELECT qvec.filter_sql('{"lang": {"$ne": "en"}, "year": {"$gte": 2020}}');

UPDATE docs SET embedding_in = '[-1,-2,-2.9]', document = 'nearly down' WHERE id = 4;
SELECT id FROM qvec.search('docs', '[-1,-2,-3]'::vector, k => 2) ORDER BY id;
SELECT rows, mean_bit_balance > 0 AS balanced, largest_mean_shift FROM qvec.drift('docs');
SELECT recall, high, queries, k, candidates, rows_scanned FROM qvec.recall('docs', k => 2);
SELECT name, relation, rescore, prefilter, oversampling, attached, has_index FROM qvec.collections;

-- A collection that rescores by floats keeps them.
SELECT qvec.create_collection('floats', :'cal', rescore => 'float16', prefilter => 'binary', id_type => 'text');
INSERT INTO floats (id, embedding_in) VALUES ('a', '[3,4,0]');
SELECT id, codes, embedding FROM floats;

-- errors
INSERT INTO docs (id, embedding_in) VALUES (5, '[1,2]');
INSERT INTO docs (id, embedding_in) VALUES (5, '[0,0,0]');
INSERT INTO docs (id, embedding_in) VALUES (5, '[NaN,0,0]');
INSERT INTO docs (id, document) VALUES (5, 'no vector');
SELECT qvec.create_collection('docs', :'cal');
SELECT qvec.create_collection('other', :'cal', rescore => 'int2');
SELECT * FROM qvec.search('other', '[1,2,3]'::vector);
SELECT * FROM qvec.search('docs', '[1,2,3]'::vector, k => 0);
SELECT * FROM qvec.search('docs', '[1,2,3]'::vector, filter => '{"year": {"$about": 2020}}');
SELECT qvec.recall('docs');
SELECT qvec.recall('docs', queries => 0);
DELETE FROM qvec.calibration;

SELECT qvec.drop_collection(name) FROM qvec.collections;
SELECT count(*) FROM pg_tables WHERE tablename IN ('docs', 'floats');
