//! What a client's session has written and read: the making of its token.
//!
//! Following a client costs a little with each of its commands, so it begins when the client first
//! asks for a token. What it did before that counts as having read all that the region holds,
//! which is too much but never too little.

use meridian_resp::Writer;

use crate::{
    client::Client,
    commands::spec::{Access, Spec},
    dispatch::Environment,
    stage::Stage,
    token::{Scope, Token},
};

/// The name under which a reply's attribute carries the token.
const ATTRIBUTE: &[u8] = b"meridian-token";

/// The scope of this region's tokens.
pub fn scope(stage: &Stage, env: &Environment) -> Scope {
    Scope::new(&env.cluster, stage.partitions())
}

/// The client's session, which begins now if it has not yet.
pub fn begin<'c>(client: &'c mut Client, stage: &Stage) -> &'c mut Token {
    let touched = client.touched_data;
    client
        .session
        .get_or_insert_with(|| Box::new(if touched { Token::of(stage) } else { Token::new() }))
}

/// After a command: the session has seen the partitions of its keys. A write's reply tells what
/// it found there, so it counts as a read as well; and every other region applies the write only
/// when it has what this one had.
#[inline]
pub fn note(client: &mut Client, stage: &Stage, spec: &Spec, args: &[&[u8]]) {
    if spec.access != Access::None {
        client.touched_data = true;
        if let Some(session) = &mut client.session {
            observe(session, stage, spec, args);
        }
    }
}

fn observe(session: &mut Token, stage: &Stage, spec: &Spec, args: &[&[u8]]) {
    if spec.name == "meridian" && !args.get(1).is_some_and(|sub| reads_data(sub)) {
        return;
    }
    let mut all = true;
    for key in spec.keys_of(args) {
        let number = stage.partition_of(key);
        session.observe(number, &stage.partition(number).vector);
        all = false;
    }
    // SCAN and its like, or keys that the table cannot point at.
    if all {
        session.join(&Token::of(stage));
    }
}

/// Whether a subcommand of MERIDIAN looks at keys.
fn reads_data(subcommand: &[u8]) -> bool {
    [&b"digest"[..], b"conflicts"].iter().any(|name| subcommand.eq_ignore_ascii_case(name))
}

/// Puts the client's token, as an attribute, in front of the reply that begins at `start`.
/// Returns how many bytes that took: none in RESP2.
pub fn attach(
    out: &mut Vec<u8>,
    start: usize,
    client: &mut Client,
    stage: &Stage,
    env: &Environment,
) -> usize {
    let mut remark = Vec::new();
    let mut writer = Writer::new(&mut remark, client.protocol);
    if writer.attribute(1) {
        writer.bulk(ATTRIBUTE);
        writer.bulk(begin(client, stage).encode(scope(stage, env)).as_bytes());
    }
    let length = remark.len();
    out.splice(start..start, remark);
    length
}
