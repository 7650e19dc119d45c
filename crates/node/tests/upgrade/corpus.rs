//! What older versions wrote, byte by byte as it came out of their encoders: files with one value a
//! line, in hexadecimal. They are never written again; a later format gets a directory of its own.

/// The values of a file.
pub fn read(name: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/corpus/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let digit = |at: u8| char::from(at).to_digit(16).expect("a digit") as u8;
    let byte = |pair: &[u8]| digit(pair[0]) << 4 | digit(pair[1]);
    let value = |line: &str| line.as_bytes().chunks_exact(2).map(byte).collect();
    text.lines().map(value).collect()
}

/// As long as the format is that of the file, so are the bytes.
#[track_caller]
pub fn check(name: &str, values: &[Vec<u8>]) {
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines = |values: &[Vec<u8>]| values.iter().map(hex).collect::<Vec<_>>().join("\n");
    assert_eq!(lines(values), lines(&read(name)), "{name}");
}
