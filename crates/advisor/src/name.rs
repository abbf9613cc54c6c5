//! Names in SQL: quoted where they must be, shortened where they are too long.

/// PostgreSQL cuts longer names silently, and two of ours could then be one.
const NAME_BYTES_MAX: usize = 63;

/// Words that a name must not be without quotes.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// A name as it stands in SQL.
pub(crate) fn quoted(name: &str) -> String {
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_plain = name.starts_with(is_first)
        && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
        && !RESERVED.contains(&name);
    if is_plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A relation with its schema.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// A text as a literal that means the same whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Joins parts with `_`; a name that is too long keeps its beginning and gets a hash of the whole.
pub(crate) fn joined(parts: &[&str]) -> String {
    let name = parts.join("_");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    // FNV-1a: the same name on every machine and in every version.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let mut end = NAME_BYTES_MAX - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{hash:08x}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_must_be() {
        let check = |name, expected| assert_eq!(quoted(name), expected);
        check("date", "date");
        check("order", "\"order\"");
        check("Store", "\"Store\"");
        check("1st", "\"1st\"");
        check("a\"b", "\"a\"\"b\"");
        check("门店", "\"门店\"");
    }

    #[test]
    fn literals_keep_quotes_and_backslashes() {
        let check = |text, expected| assert_eq!(literal(text), expected);
        check("a", "'a'");
        check("it's", "'it''s'");
        check("a\\'b", "E'a\\\\''b'");
    }

    #[test]
    fn long_names_stay_apart() {
        let long = "x".repeat(70);
        let (one, other) = (joined(&["idx", &long, "a"]), joined(&["idx", &long, "b"]));
        assert!(one.len() <= NAME_BYTES_MAX && one != other, "{one} {other}");
        assert_eq!(joined(&["idx", "t", "a"]), "idx_t_a");
        assert!(joined(&["门".repeat(40).as_str()]).len() <= NAME_BYTES_MAX);
    }
}
