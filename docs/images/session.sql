CREATE TABLE shop AS FROM (VALUES
    (1, 'canon selphy cp800 photo printer', 'canon', 'printers'),
    (2, 'canon pixma mg5320 inkjet printer', 'canon', 'printers'),
    (3, 'nikon coolpix s3100 camera', 'nikon', NULL),
    (4, 'nikon coolpix p500 camera', 'nikon', 'cameras'),
    (5, 'nikon d7000 slr camera', 'nikon', 'cameras')) AS t(id, title, brand, category);
CREATE TABLE offers AS FROM (VALUES
    ('a', 'Selphy CP800 compact photo printer by Canon', 89.0),
    ('b', 'Nikon Coolpix S3100 14MP', 119.0)) AS t(id, title, price);
SELECT l_id, r_id, round(probability, 3) AS probability, tier FROM meld.join('shop', 'offers');
SELECT id, value AS category, round(probability, 3) AS probability FROM meld.impute_nulls('shop');
SELECT function, rows, evaluations, tier0, tier1, tier2, failures FROM meld.stats();
