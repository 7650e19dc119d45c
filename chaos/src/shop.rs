//! A sample shop in Postgres, and whether a region's mirror holds the same rows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::redis_port::Redis;
use crate::source::Source;

/// Customers in the shop.
const CUSTOMERS: u32 = 1_000;
/// Products in the shop.
const PRODUCTS: u32 = 500;
/// Orders in the shop; each has one to three items.
const ORDERS: u32 = 1_500;

/// A table: its name, the columns of its key, and the others.
pub struct Table {
    /// Its name, in schema `public`.
    pub name: &'static str,
    /// Its primary key.
    pub key: &'static [&'static str],
    /// The other columns.
    pub columns: &'static [&'static str],
}

/// The shop's tables.
pub const TABLES: [Table; 4] = [
    Table {
        name: "customers",
        key: &["customer_id"],
        columns: &["name", "email", "phone", "joined_at"],
    },
    Table { name: "products", key: &["product_id"], columns: &["name", "price", "stock"] },
    Table {
        name: "orders",
        key: &["order_id"],
        columns: &["customer_id", "placed_at", "is_paid", "note"],
    },
    Table {
        name: "order_items",
        key: &["order_id", "line"],
        columns: &["product_id", "quantity", "price"],
    },
];

/// SQL that makes the tables and fills them, the same way every time.
pub fn schema() -> String {
    format!(
        "BEGIN;
CREATE TABLE customers (
  customer_id bigint PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  phone text,
  joined_at timestamptz NOT NULL
);
CREATE TABLE products (
  product_id integer PRIMARY KEY,
  name text NOT NULL,
  price numeric(10, 2) NOT NULL,
  stock integer NOT NULL
);
CREATE TABLE orders (
  order_id bigint PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers,
  placed_at timestamptz NOT NULL,
  is_paid boolean NOT NULL,
  note text
);
CREATE TABLE order_items (
  order_id bigint NOT NULL REFERENCES orders,
  line smallint NOT NULL,
  product_id integer NOT NULL REFERENCES products,
  quantity integer NOT NULL,
  price numeric(10, 2) NOT NULL,
  PRIMARY KEY (order_id, line)
);
INSERT INTO customers
  SELECT n, 'Customer ' || n, 'c' || n || '@shop.test',
         CASE WHEN n % 3 > 0 THEN '+1 555 ' || lpad(n::text, 4, '0') END,
         timestamptz '2024-01-01 08:00:00+00' + n * interval '97 minutes'
  FROM generate_series(1, {CUSTOMERS}) n;
INSERT INTO products
  SELECT n, 'Product: ' || n || ' „naïve“ ☕', (n * 37 % 9000) / 100.0 + 1, n * 7 % 200
  FROM generate_series(1, {PRODUCTS}) n;
INSERT INTO orders
  SELECT n, n * 31 % {CUSTOMERS} + 1, timestamptz '2025-01-01 00:00:00+00' + n * interval '11 minutes',
         n % 4 > 0, CASE n % 5 WHEN 0 THEN '' WHEN 1 THEN 'leave at the door' END
  FROM generate_series(1, {ORDERS}) n;
INSERT INTO order_items
  SELECT n, line, (n * 13 + line * 101) % {PRODUCTS} + 1, (n + line) % 4 + 1,
         ((n * 13 + line * 101) % {PRODUCTS} * 37 % 9000) / 100.0 + 1
  FROM generate_series(1, {ORDERS}) n, generate_series(1, 3) line
  WHERE line <= n % 3 + 1;
COMMIT;
"
    )
}

/// Rows by their key in the mirror; a NULL is not there.
pub type Rows = BTreeMap<String, BTreeMap<String, String>>;

/// All rows of the shop, as Postgres has them.
///
/// # Errors
/// What the server says.
pub fn in_postgres(source: &Source) -> Result<Rows> {
    let mut rows = Rows::new();
    for table in &TABLES {
        let columns: Vec<&str> = table.key.iter().chain(table.columns).copied().collect();
        let sql = format!("SELECT {} FROM public.{}", columns.join(", "), table.name);
        for row in source.rows(&sql)? {
            let parts: Vec<&str> = row[..table.key.len()].iter().flatten().map(|s| &**s).collect();
            let key = format!("pg:{}:{}", table.name, parts.join(":"));
            let fields = columns.iter().zip(row);
            let fields = fields.filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            rows.insert(key, fields.collect());
        }
    }
    Ok(rows)
}

/// All rows that a region's mirror holds.
///
/// # Errors
/// What the region says.
pub fn in_mirror(redis: &mut Redis) -> Result<Rows> {
    let keys = redis.keys("pg:*")?;
    let commands = keys.iter().map(|key| vec!["HGETALL".to_owned(), key.clone()]).collect();
    let hashes: Vec<BTreeMap<String, String>> = redis.pipelined(commands)?;
    Ok(keys.into_iter().zip(hashes).collect())
}

/// Checks that two sets of rows are the same.
///
/// # Errors
/// Says how many differ, and shows one.
pub fn check_equal(postgres: &Rows, mirror: &Rows, region: &str) -> Result<()> {
    let keys: BTreeSet<&String> = postgres.keys().chain(mirror.keys()).collect();
    let mut differ = keys.iter().filter(|key| postgres.get(**key) != mirror.get(**key));
    let Some(first) = differ.next() else { return Ok(()) };
    let more = differ.count();
    bail!(
        "{} of {} rows differ in {region}; {first} is {:?} there and {:?} in Postgres",
        more + 1,
        postgres.len(),
        mirror.get(*first),
        postgres.get(*first)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_differs_is_shown() {
        let rows = |text: &str| -> Rows {
            let row = BTreeMap::from([("name".to_owned(), text.to_owned())]);
            BTreeMap::from([("pg:products:1".to_owned(), row)])
        };
        check_equal(&rows("a"), &rows("a"), "us").unwrap();
        for (postgres, mirror) in [(rows("a"), rows("b")), (rows("a"), Rows::new())] {
            let error = check_equal(&postgres, &mirror, "us").unwrap_err().to_string();
            assert!(error.contains("1 of 1") && error.contains("pg:products:1"), "{error}");
        }
        assert!(check_equal(&Rows::new(), &rows("a"), "us").is_err(), "a row too many");
    }
}
