//! A reply as a client holds it.

/// One reply of a server, in either protocol. Strings are bytes: Redis values need not be UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A status line.
    Simple(Vec<u8>),
    /// An error: code, space, text.
    Error(Vec<u8>),
    /// A 64-bit integer.
    Integer(i64),
    /// A double (RESP3).
    Double(f64),
    /// True or false (RESP3).
    Boolean(bool),
    /// Decimal digits of an integer of any size (RESP3).
    BigNumber(Vec<u8>),
    /// A string.
    Bulk(Vec<u8>),
    /// Text with its format, `txt` or `mkd` (RESP3).
    Verbatim([u8; 3], Vec<u8>),
    /// No value, in any of its three spellings.
    Null,
    /// An array.
    Array(Vec<Value>),
    /// A map in the order of the wire (RESP3).
    Map(Vec<(Value, Value)>),
    /// A set in the order of the wire (RESP3).
    Set(Vec<Value>),
    /// A message that answers no command (RESP3).
    Push(Vec<Value>),
    /// Remarks and the value that they belong to (RESP3).
    Attributed(Vec<(Value, Value)>, Box<Value>),
}

impl Value {
    /// The bytes of a string, status, verbatim text or big number.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(bytes)
            | Value::Bulk(bytes)
            | Value::Verbatim(_, bytes)
            | Value::BigNumber(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The integer, also when it came as a string.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(value) => Some(*value),
            value => value.as_bytes().and_then(crate::number::parse_integer),
        }
    }

    /// The elements of an array, set or push.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(values) | Value::Set(values) | Value::Push(values) => Some(values),
            _ => None,
        }
    }

    /// The text of an error.
    pub fn as_error(&self) -> Option<&[u8]> {
        match self {
            Value::Error(text) => Some(text),
            _ => None,
        }
    }
}
