-- A synthetic clinical study. Every value is a function of a row number: the same on every machine, and nobody's.
-- About 20,000 patients, 200,000 encounters and 1,200,000 laboratory results.

CREATE TYPE sex AS ENUM ('female', 'male', 'other', 'unknown');
CREATE TYPE encounter_kind AS ENUM ('inpatient', 'outpatient', 'emergency');

-- A number from 0 up to below `many`, different for each row and each purpose.
CREATE FUNCTION pick(n bigint, purpose int, many int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (((n * 2654435761 + purpose * 40503) % 4294967291) * 48271 % 2147483647 % many)::int;

CREATE UNLOGGED TABLE patients AS
SELECT n::int                                                                            AS patient_id,
       md5('patient ' || n)::uuid                                                        AS pseudonym,
       lpad((n * 7)::text, 8, '0')                                                       AS record_number,
       (ARRAY['Žofie', 'Søren', 'Núria', 'O''Neil', 'Mei 梅', 'Anna "Ann"', 'Łukasz', 'Test'])[1 + pick(n, 1, 8)]
           || ' ' || (ARRAY['Example', 'Sample-Case', 'Muster, jr.', 'Doe'])[1 + pick(n, 2, 4)] AS display_name,
       (enum_range(NULL::sex))[1 + pick(n, 3, 4)]                                        AS sex,
       CASE WHEN pick(n, 4, 50) > 0 THEN date '1930-01-01' + pick(n, 5, 33000) END       AS born,
       CASE pick(n, 6, 5) WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'allergy: ' || pick(n, 7, 90) END AS remark
FROM generate_series(1::bigint, 20000) AS n;

CREATE UNLOGGED TABLE encounters AS
SELECT n                                                                                 AS encounter_id,
       1 + pick(n, 11, 20000)                                                            AS patient_id,
       (enum_range(NULL::encounter_kind))[1 + pick(n, 12, 3)]                            AS kind,
       timestamptz '2019-01-01 00:00+00' + make_interval(secs => pick(n, 13, 189000000)) AS admitted_at,
       CASE WHEN pick(n, 14, 20) > 0 THEN make_interval(hours => pick(n, 15, 400)) END   AS stay,
       ARRAY['ward ' || pick(n, 16, 30), 'bed ' || pick(n, 17, 12)]                      AS location
FROM generate_series(1::bigint, 200000) AS n;

CREATE UNLOGGED TABLE lab_results AS
SELECT n                                                                                 AS result_id,
       1 + pick(n, 21, 200000)                                                           AS encounter_id,
       (ARRAY['HbA1c', 'Glucose', 'Creatinine', 'Sodium', 'CRP', 'Ferritin'])[1 + pick(n, 22, 6)] AS analyte,
       (pick(n, 23, 1000000) / 1000.0)::numeric(9, 3)                                    AS value,
       pick(n, 24, 100000) / 7.0::float8                                                 AS raw_signal,
       CASE WHEN pick(n, 25, 10) > 0 THEN timestamptz '2019-01-01 00:00+00' + make_interval(secs => pick(n, 26, 189000000)) END AS taken_at,
       pick(n, 27, 40) = 0                                                               AS abnormal,
       CASE WHEN pick(n, 28, 4) = 0 THEN jsonb_build_object('device', 'A-' || pick(n, 29, 12), 'run', pick(n, 30, 500), 'flags', jsonb_build_array(pick(n, 31, 2) = 0)) END AS device,
       CASE pick(n, 32, 12)
           WHEN 0 THEN ''
           WHEN 1 THEN 'repeat; sample "haemolysed", see note'
           WHEN 2 THEN E'first line\nsecond line'
           WHEN 3 THEN 'µmol/l — Überprüfung 済'
       END                                                                               AS comment
FROM generate_series(1::bigint, 1200000) AS n;

ALTER TABLE patients ADD PRIMARY KEY (patient_id);
ALTER TABLE encounters ADD PRIMARY KEY (encounter_id);
ALTER TABLE lab_results ADD PRIMARY KEY (result_id);
ANALYZE patients, encounters, lab_results;

-- Written last: a study without it was interrupted and is made anew.
CREATE TABLE study_complete AS SELECT now() AS made_at;
