//! Outlines of texts, and what they say of keys.

use super::*;
use crate::query::declaration::Order;

/// `orders(id*, store!, day!, product, note)`, `stores(id*, name!, region!)` with unique (region, name),
/// `lines(order_id!, n!, item!)` with unique (order_id, n).
fn info(path: &[String]) -> TableInfo {
    let (columns, keys): (&[(&str, bool)], &[&[&str]]) = match path.last().unwrap().as_str() {
        "orders" => (
            &[
                ("id", true),
                ("store", true),
                ("day", true),
                ("product", false),
                ("note", false),
            ],
            &[&["id"], &["product", "note"]],
        ),
        "stores" => (
            &[("id", true), ("name", true), ("region", true)],
            &[&["id"], &["region", "name"]],
        ),
        _ => (
            &[("order_id", true), ("n", true), ("item", true)],
            &[&["order_id", "n"]],
        ),
    };
    TableInfo {
        columns: columns
            .iter()
            .map(|(name, not_null)| ((*name).to_owned(), *not_null))
            .collect(),
        keys: keys
            .iter()
            .map(|key| key.iter().map(|column| (*column).to_owned()).collect())
            .collect(),
    }
}

fn check(sql: &str, page: &str, expected: &str) {
    let page: Vec<_> = page
        .split(", ")
        .map(|column| Order::parse(column).unwrap())
        .collect();
    let said = Outline::of(sql).and_then(|outline| {
        let infos: Vec<_> = outline.tables.iter().map(|table| info(&table.path)).collect();
        outline.check_key(&page, &infos)
    });
    let said = said.map_or_else(|problem| problem, |()| "safe".to_owned());
    assert!(
        said.contains(expected),
        "{sql} by {page:?}: {said:?} does not contain {expected:?}"
    );
}

#[test]
fn one_table_needs_a_key_in_page_and_bound_columns() {
    check("SELECT * FROM orders", "id", "safe");
    check(
        "SELECT day, id FROM orders WHERE store = :store",
        "day, id",
        "safe",
    );
    check(
        "SELECT day FROM orders WHERE store = :store",
        "day",
        "gives (day, store) of table orders, which contains no unique",
    );
    check("SELECT day FROM orders WHERE id = :id", "day", "safe");
    check("SELECT name FROM stores WHERE region = :region", "name", "safe");
    check(
        "SELECT name FROM stores WHERE :region::text = (stores.region)",
        "name",
        "safe",
    );
    check(
        "SELECT name FROM market.stores s WHERE (s.region = 'x' AND true)",
        "name",
        "safe",
    );
    check(
        "SELECT name FROM stores",
        "name",
        "its unique keys are (id), (region, name)",
    );
}

#[test]
fn only_equalities_that_hold_for_every_row_bind() {
    check(
        "SELECT name FROM stores WHERE region = :a OR region = :b",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE region > :a AND id > 5",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE NOT region = :a",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE lower(region) = :a",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE region = ANY(:a)",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE id BETWEEN 1 AND region = :a",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE CASE WHEN true AND region = :a AND true THEN true END",
        "name",
        "no unique",
    );
    check(
        "SELECT name FROM stores WHERE id BETWEEN 1 AND 5 AND region = :a",
        "name",
        "safe",
    );
    check(
        "SELECT name FROM stores WHERE (id = 5 OR id = 6) AND region = :a",
        "name",
        "safe",
    );
}

#[test]
fn joins_are_followed_through_their_keys() {
    check(
        "SELECT o.day, o.id FROM orders o JOIN stores s ON s.id = o.store",
        "day, id",
        "safe",
    );
    check(
        "SELECT o.id FROM orders AS o LEFT OUTER JOIN stores s ON o.store = s.id WHERE o.day > :day",
        "id",
        "safe",
    );
    check(
        "SELECT o.id FROM orders o, stores s WHERE s.id = o.store",
        "id",
        "safe",
    );
    check(
        "SELECT o.id FROM orders o JOIN stores s ON s.name = o.product",
        "id",
        "of table stores",
    );
    check(
        "SELECT o.id FROM orders o JOIN lines l ON l.order_id = o.id",
        "id",
        "of table lines",
    );
    check(
        "SELECT o.id, l.n FROM orders o JOIN lines l ON l.order_id = o.id",
        "id, n",
        "safe",
    );
    check(
        "SELECT l.order_id, l.n FROM orders o JOIN lines l ON l.order_id = o.id",
        "order_id, n",
        "safe",
    );
    check(
        "SELECT o.id FROM orders o LEFT JOIN lines l ON l.order_id = o.id AND l.n = 1",
        "id",
        "safe",
    );
    check(
        "SELECT l.n FROM lines l LEFT JOIN orders o ON o.id = l.order_id AND l.order_id = :id",
        "n",
        "of table lines",
    );
    check(
        "SELECT o.id FROM orders o CROSS JOIN stores s WHERE s.id = :store",
        "id",
        "safe",
    );
    check("SELECT a.id FROM stores a JOIN stores b USING (id)", "id", "safe");
}

#[test]
fn page_columns_are_columns_that_are_never_null() {
    check(
        "SELECT id + 1 AS id FROM orders",
        "id",
        "page column id is an expression",
    );
    check("SELECT id AS number FROM orders", "number", "safe");
    check("SELECT id number FROM orders", "number", "safe");
    check(
        "SELECT id AS number FROM orders",
        "id",
        "page column id is not in the select list",
    );
    check(
        "SELECT product, note FROM orders",
        "product, note",
        "page column product may be null",
    );
    check(
        "SELECT s.id FROM orders o LEFT JOIN stores s ON s.id = o.store",
        "id",
        "LEFT JOINed",
    );
    check(
        "SELECT s.*, o.day FROM orders o JOIN stores s ON s.id = o.store",
        "id",
        "of table orders",
    );
    check(
        "SELECT id FROM orders o JOIN stores s ON s.id = o.store",
        "id",
        "in more than one table",
    );
    check("SELECT \"id\", count FROM orders", "id", "safe");
}

#[test]
fn texts_that_are_not_plain_are_refused() {
    check(
        "SELECT day FROM orders GROUP BY day",
        "day",
        "cannot have GROUP BY",
    );
    check("SELECT DISTINCT id FROM orders", "id", "cannot have DISTINCT");
    check(
        "SELECT id FROM orders ORDER BY id",
        "id",
        "cannot have ORDER BY: `page` gives order",
    );
    check("SELECT id FROM orders LIMIT 5", "id", "cannot have LIMIT");
    check(
        "SELECT id FROM orders UNION SELECT id FROM stores",
        "id",
        "cannot have UNION",
    );
    check(
        "WITH x AS (SELECT 1) SELECT id FROM orders",
        "id",
        "begins with SELECT",
    );
    check(
        "SELECT id FROM (SELECT id FROM orders) x",
        "id",
        "FROM tables alone",
    );
    check("SELECT g FROM generate_series(1, 5) g", "g", "FROM tables alone");
    check(
        "SELECT o.id FROM orders o FULL OUTER JOIN stores s ON true",
        "id",
        "cannot have FULL JOIN",
    );
    check(
        "SELECT o.id FROM orders o NATURAL JOIN stores s",
        "id",
        "cannot have NATURAL JOIN",
    );
    check("SELECT 1 AS id", "id", "reads FROM a table");
    check(
        "SELECT id, (SELECT max(day) FROM orders GROUP BY day LIMIT 1) FROM orders",
        "id",
        "safe",
    );
    check("SELECT id, extract(year FROM day) FROM orders", "id", "safe");
}
