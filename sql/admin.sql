-- Administration tables.
CREATE OR REPLACE MACRO meld.stats() AS TABLE
    SELECT unnest(s) FROM (SELECT unnest(__meld_stats()) AS s);
CREATE OR REPLACE MACRO meld.errors() AS TABLE
    SELECT unnest(e) FROM (SELECT unnest(__meld_errors()) AS e);
CREATE OR REPLACE MACRO meld.settings() AS TABLE
    SELECT unnest(s) FROM (SELECT unnest(__meld_settings()) AS s);
CREATE OR REPLACE MACRO meld.help() AS TABLE
    SELECT unnest(h) FROM (SELECT unnest(__meld_help()) AS h);
