//! The few backend messages that the replication connection needs, read with every length checked.
//! Layouts: PostgreSQL documentation, "Message Formats".

use bytes::{Buf, Bytes};

use crate::error::ServerError;
use crate::{PostgresError, limits::QUERY_ROWS_MAX};

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Which authentication it wants (the code), and that method's data.
    Authentication(u32, Bytes),
    /// The statement failed.
    Error(ServerError),
    /// It waits for the next statement.
    Ready,
    /// A row in text form.
    Row(Vec<Option<String>>),
    /// COPY TO STDOUT begins.
    CopyOut,
    /// The replication stream begins.
    CopyBoth,
    /// A piece of either.
    CopyData(Bytes),
    /// The end of either.
    CopyDone,
    /// Of no interest: notices, parameters, row descriptions, tags.
    Other,
}

impl Backend {
    pub(crate) fn parse(kind: u8, mut body: Bytes) -> Result<Backend, PostgresError> {
        Ok(match kind {
            b'R' => {
                let code = body.try_get_u32().map_err(|_| short())?;
                Backend::Authentication(code, body)
            }
            b'E' => Backend::Error(server_error(&body)),
            b'Z' => Backend::Ready,
            b'D' => Backend::Row(row(body)?),
            b'H' => Backend::CopyOut,
            b'W' => Backend::CopyBoth,
            b'd' => Backend::CopyData(body),
            b'c' => Backend::CopyDone,
            b'S' | b'K' | b'N' | b'T' | b'C' | b'A' | b'I' => Backend::Other,
            _ => return Err(PostgresError::Protocol("a message of unknown kind")),
        })
    }
}

/// Strings that each end with a zero byte, up to an empty one or the end.
pub(super) fn strings(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|&b| b == 0).take_while(|text| !text.is_empty())
}

/// Collects rows and refuses too many.
pub(crate) fn push_row<T>(rows: &mut Vec<T>, row: T) -> Result<(), PostgresError> {
    if rows.len() >= QUERY_ROWS_MAX {
        return Err(PostgresError::Protocol("more rows than expected"));
    }
    rows.push(row);
    Ok(())
}

fn server_error(body: &[u8]) -> ServerError {
    let (mut code, mut message, mut detail) = (String::new(), String::new(), vec![]);
    for field in strings(body) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => code = text,
            b'M' => message = text,
            b'D' | b'H' => detail.push(text),
            _ => {}
        }
    }
    ServerError { code, message, detail: detail.join("; ") }
}

fn row(mut body: Bytes) -> Result<Vec<Option<String>>, PostgresError> {
    let count = body.try_get_u16().map_err(|_| short())?;
    let mut values = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| short())?;
        let Ok(length) = usize::try_from(length) else {
            values.push(None); // -1 is NULL.
            continue;
        };
        if body.len() < length {
            return Err(short());
        }
        values.push(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    Ok(values)
}

fn short() -> PostgresError {
    PostgresError::Protocol("a message is cut short")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_and_errors() {
        let row = Bytes::from_static(b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0");
        let want = vec![Some("a".to_owned()), None, Some(String::new())];
        assert_eq!(Backend::parse(b'D', row.clone()).unwrap(), Backend::Row(want));
        for length in 0..row.len() {
            assert!(Backend::parse(b'D', row.slice(..length)).is_err(), "cut to {length}");
        }
        let error = Bytes::from_static(b"SFATAL\0C3D000\0Mno such database\0Hcreate it\0\0");
        let Backend::Error(error) = Backend::parse(b'E', error).unwrap() else { panic!() };
        assert_eq!(error.to_string(), "no such database (create it) [SQLSTATE 3D000]");
        assert!(Backend::parse(b'?', Bytes::new()).is_err());
    }
}
