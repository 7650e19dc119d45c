//! Every bound on what a remote side may make us hold, in one place.

/// What a request may ask of the server's memory. The defaults are those of Redis 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest single argument, in bytes (Redis: `proto-max-bulk-len`).
    pub max_bulk_len: u32,
    /// Most arguments of one command, the command's name included.
    pub max_args: u32,
    /// Longest inline command and longest length line, in bytes, its line end excluded.
    pub max_line_len: u32,
    /// Longest whole command, in bytes (Redis: `client-query-buffer-limit`).
    pub max_command_len: u32,
    /// Whether the client still has to authenticate; then the two limits below hold as well.
    pub unauthenticated: bool,
    /// Most arguments of a client that has not authenticated.
    pub max_args_unauthenticated: u32,
    /// Longest argument of a client that has not authenticated, in bytes.
    pub max_bulk_len_unauthenticated: u32,
}

impl Limits {
    /// Redis 7's defaults for a client that may run commands.
    pub const DEFAULT: Limits = Limits {
        max_bulk_len: 512 * 1024 * 1024,
        max_args: 1024 * 1024,
        max_line_len: 64 * 1024,
        max_command_len: 1024 * 1024 * 1024,
        unauthenticated: false,
        max_args_unauthenticated: 10,
        max_bulk_len_unauthenticated: 16 * 1024,
    };

    /// The defaults for a client that has yet to authenticate.
    pub const UNAUTHENTICATED: Limits = Limits { unauthenticated: true, ..Limits::DEFAULT };
}

// A command is addressed by u32 offsets, the two bytes after its last argument included.
const _: () = assert!(Limits::DEFAULT.max_command_len <= u32::MAX - 2);
const _: () = assert!(Limits::DEFAULT.max_bulk_len < Limits::DEFAULT.max_command_len);
const _: () = assert!(Limits::DEFAULT.max_line_len < Limits::DEFAULT.max_command_len);

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

/// What a reply may ask of a client's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Longest whole reply, in bytes.
    pub max_reply_len: usize,
    /// Deepest nesting of arrays, maps, sets, pushes and attributes; a scalar has depth 0.
    pub max_depth: usize,
    /// Most values in one reply, counting every element, key and value at every depth.
    pub max_values: u64,
}

impl ReplyLimits {
    /// Wide enough for any reply of a server within [`Limits::DEFAULT`] that a tool would ask for.
    pub const DEFAULT: ReplyLimits =
        ReplyLimits { max_reply_len: 1024 * 1024 * 1024, max_depth: 32, max_values: 16_000_000 };
}

// The builder of values recurses once a level.
const _: () = assert!(ReplyLimits::DEFAULT.max_depth <= 128);

impl Default for ReplyLimits {
    fn default() -> Self {
        ReplyLimits::DEFAULT
    }
}
