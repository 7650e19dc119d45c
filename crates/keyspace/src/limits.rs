//! Every limit of the keyspace, in one place.

use meridian_store::MAX_FRAME_BYTES;

/// The largest key, value, field or member, in bytes. Redis allows 512 MiB; a frame is applied
/// whole or not at all, so one value must fit one frame.
pub const MAX_VALUE_BYTES: usize = 32 << 20;

/// A frame is closed between commands once its operations exceed this.
pub const FRAME_TARGET_BYTES: usize = 512 << 10;

/// The most that one command or transaction may write to one partition.
pub const MAX_COMMAND_BYTES: usize = MAX_FRAME_BYTES - (1 << 20);

/// The most commands that a MULTI may queue, and their bytes.
pub const MAX_QUEUED_COMMANDS: usize = 1 << 16;
/// See [`MAX_QUEUED_COMMANDS`].
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The most keys that are remembered as holding a conflict.
pub const MAX_CONFLICT_KEYS: usize = 10_000;

/// The most keys that one client may WATCH.
pub const MAX_WATCHED_KEYS: usize = 1 << 16;

const _: () = assert!(
    MAX_VALUE_BYTES * 2 < MAX_COMMAND_BYTES,
    "a field and its value, both as large as allowed, must fit one frame"
);
