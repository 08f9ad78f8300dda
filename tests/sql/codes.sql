-- Two dimensions, threshold 0 and radius 1: steps of 1/128.
CREATE TABLE two (id int PRIMARY KEY, embedding vector(2));
INSERT INTO two VALUES (1, '[1,-1]'), (2, '[-1,1]');
SELECT qvec.calibrate('two', 'embedding', 'fixed', metric => 'ip', threshold => 0, radius => 1) AS cal \gset
SELECT dimensions, threshold, radius, deviation, mean, std FROM qvec.calibration WHERE id = :'cal';

-- A plane is 8 bits here: two dimensions and padding.
SELECT qvec.quantize('[0.5,-0.5]'::vector, :'cal');
SELECT qvec.quantize('[0.5,-0.5]'::halfvec, :'cal', 4);
SELECT qvec.quantize('[0.505859375,-0.5]'::vector, :'cal', 10);
SELECT qvec.binary('[0.5,-0.5]'::vector, :'cal'), qvec.ternary('[0.5,-0.05]'::vector, :'cal');
SELECT qvec.quantize('[1000,-1000]'::vector, :'cal'), qvec.quantize('[0,1e-45]'::vector, :'cal');
SELECT qvec.dequantize(qvec.quantize('[0.5,-0.5]'::vector, :'cal', planes), :'cal') FROM unnest('{1,2,4,8,10}'::int[]) AS planes;
SELECT qvec.score(qvec.quantize('[0.5,-0.5]'::vector, :'cal', 4), '[1,2]'::vector, :'cal');
SELECT qvec.hamming(B'11001100', B'1010');

-- errors
SELECT qvec.quantize('[1,2,3]'::vector, :'cal');
SELECT qvec.quantize('[1,2]'::vector, :'cal', 0);
SELECT qvec.quantize('[1,2]'::vector, 'nothing');
SELECT qvec.dequantize(B'101', :'cal');

-- The id of a calibration is its hash.
SELECT qvec.import_calibration(qvec.export_calibration(:'cal')) = :'cal' AS same;
SELECT qvec.export_calibration(:'cal') -> 'metadata' -> 'method' AS method;
SELECT qvec.import_calibration('{"content": "AAAA"}'::jsonb);
INSERT INTO qvec.calibration (id, content) SELECT '0123456789abcdef', content FROM qvec.calibration;
