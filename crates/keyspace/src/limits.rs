//! Every limit of the keyspace, in one place.

use meridian_store::{MAX_ENTRY_BYTES, MAX_FRAME_BYTES};

/// The largest key, value, field or member, in bytes. Redis allows 512 MiB; a frame is applied
/// whole or not at all, so one value must fit one frame.
pub const MAX_VALUE_BYTES: usize = 32 << 20;

/// A frame is closed between commands once its operations exceed this.
pub const FRAME_TARGET_BYTES: usize = 512 << 10;

/// The most that one command or transaction may write to one partition.
pub const MAX_COMMAND_BYTES: usize = MAX_FRAME_BYTES - (1 << 20);

/// What the operations of a command may take beyond its arguments' bytes: heads and lengths.
pub const COMMAND_SLACK_BYTES: usize = 1 << 20;

/// The most bytes that the arguments of one writing command may have together.
pub const MAX_ARGUMENT_BYTES: usize = MAX_COMMAND_BYTES - FRAME_TARGET_BYTES - (4 << 20);

/// The latest deadline that a stamp can express (in the year 2106), in milliseconds since 1970;
/// later ones become this one.
pub const MAX_DEADLINE_MS: u64 = 4_294_967_295_999;

/// The most elements that a random pick with repetition returns.
pub const MAX_RANDOM_PICKS: usize = 1 << 20;

/// The most bytes of counter rows that one operation may list as reset; beyond it they are
/// removed one by one.
pub const MAX_CUT_BYTES: usize = 4 << 20;

/// A transaction's commands are refused, and FLUSHALL stops, when the commit holds this much.
pub const MAX_COMMIT_BYTES: usize = 1 << 30;

/// With less room than this in a partition's frame, FLUSHALL begins a new one: enough for the
/// clear of the largest key, and for the counters that it resets.
pub const FLUSH_ROOM_BYTES: usize = MAX_COMMAND_BYTES - MAX_VALUE_BYTES;

/// The longest text that is read as a decimal number, as in Redis.
pub const MAX_DECIMAL_BYTES: usize = 5 << 10;

/// The most commands that a MULTI may queue, and their bytes.
pub const MAX_QUEUED_COMMANDS: usize = 1 << 16;
/// See [`MAX_QUEUED_COMMANDS`].
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The most clients that may follow conflicts.
pub const MAX_FOLLOWERS: usize = 64;

/// The most events about conflicts that one commit tells, and the bytes of their keys and values;
/// followers are told how many more there were.
pub const MAX_FEED_EVENTS: usize = 4096;
/// See [`MAX_FEED_EVENTS`].
pub const MAX_FEED_PENDING_BYTES: usize = 4 << 20;

/// How much of a value an event tells.
pub const MAX_FEED_VALUE_BYTES: usize = 1024;

/// Unsent bytes of a follower beyond which events are dropped for it.
pub const MAX_FEED_BACKLOG_BYTES: usize = 256 << 10;

/// The most fields that restoring a hidden type removes.
pub const MAX_RESTORE_REMOVALS: usize = 10_000;

/// The most bytes of earlier states that a frozen partition may keep.
pub const MAX_FROZEN_BYTES: usize = 64 << 20;

/// The most keys that one client may WATCH.
pub const MAX_WATCHED_KEYS: usize = 1 << 16;

/// The most partitions that a session token names one by one; older ones fold into what must be
/// there in every partition.
pub const MAX_TOKEN_PARTITIONS: usize = 64;

/// The most stamps that a session token holds for single partitions.
pub const MAX_TOKEN_ENTRIES: usize = 120;

/// The longest session token, in characters: a browser keeps at least 4096 bytes a cookie, name
/// and attributes included (RFC 6265, section 6.1).
pub const MAX_TOKEN_CHARS: usize = 4000;

/// How long MERIDIAN.AWAIT waits unless it is told, in milliseconds.
pub const DEFAULT_AWAIT_MS: u64 = 1_000;

/// The longest that MERIDIAN.AWAIT may be told to wait, in milliseconds.
pub const MAX_AWAIT_MS: u64 = 60_000;

/// The most clients that may wait at once.
pub const MAX_WAITING_CLIENTS: usize = 4096;

/// The most commands that may wait behind a client's MERIDIAN.AWAIT, and their bytes. A shell that
/// stops reading from a client that waits never comes near.
pub const MAX_DEFERRED_COMMANDS: usize = 1 << 16;
/// See [`MAX_DEFERRED_COMMANDS`].
pub const MAX_DEFERRED_BYTES: usize = 64 << 20;

const _: () = assert!(
    MAX_VALUE_BYTES * 2 < MAX_COMMAND_BYTES,
    "a field and its value, both as large as allowed, must fit one frame"
);

const _: () = assert!(
    MAX_COMMIT_BYTES + MAX_COMMAND_BYTES + MAX_FRAME_BYTES < MAX_ENTRY_BYTES,
    "one more command must fit a full commit"
);
/// The largest token's bytes: the cluster and the checksum, the origins' heads, the entries.
const TOKEN_BYTES: usize =
    8 + 4 + 1 + meridian_clock::MAX_REGIONS * (1 + 8 + 10 + 2) + MAX_TOKEN_ENTRIES * (3 + 10);

const _: () = assert!(
    2 + TOKEN_BYTES.div_ceil(3) * 4 <= MAX_TOKEN_CHARS,
    "every token that is made must be short enough to be read"
);

const _: () =
    assert!(MAX_CUT_BYTES / 64 < meridian_crdt::MAX_CUTS, "what is listed must be readable");
