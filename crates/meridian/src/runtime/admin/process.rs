//! This process, as the system accounts for it.

/// Ticks a second in which the system accounts processor time to programs (`USER_HZ`): fixed at 100
/// on every architecture that this runs on, whatever the kernel's own tick is.
const TICKS_PER_S: f64 = 100.0;

/// Accounted to this process by the system; zero where that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time, user and system, in seconds.
    pub cpu_s: f64,
    /// Memory that is in use, in bytes.
    pub resident_bytes: u64,
    /// When it was started, seconds since 1970.
    pub start_s: f64,
    /// Threads.
    pub threads: u64,
    /// Open files and sockets.
    pub open_files: u64,
}

impl Process {
    /// Reads it now.
    #[must_use]
    pub fn read() -> Process {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let boot_s = text("/proc/stat")
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let mut process = parse(&stat, &text("/proc/self/status"));
        process.start_s = boot_s.map_or(0.0, |boot_s| boot_s + process.start_s);
        process.open_files = open_files;
        process
    }
}

/// Reads `/proc/self/stat` and `/proc/self/status` (proc(5)); the start is left in seconds since
/// the boot.
fn parse(stat: &str, status: &str) -> Process {
    // The second field is the program's name, which may hold anything.
    let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are numbered from 1 in the manual; the first one here is the third.
    let seconds = |number: usize| {
        let ticks = fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
        ticks.unwrap_or(0) as f64 / TICKS_PER_S
    };
    let line = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let word = value.and_then(|value| value.split_ascii_whitespace().next());
        word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    Process {
        cpu_s: seconds(14) + seconds(15),
        resident_bytes: line("VmRSS") * 1024,
        start_s: seconds(22),
        threads: line("Threads"),
        open_files: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 7 0 123400 \
                    8000000 1500 18446744073709551615 1 1 0";
        let status = "Name:\tVmRSS: 9\nVmHWM:\t  99 kB\nVmRSS:\t    6000 kB\nThreads:\t7\n";
        let process = parse(stat, status);
        assert_eq!(process.cpu_s, 3.0);
        assert_eq!(process.resident_bytes, 6000 * 1024);
        assert_eq!(process.start_s, 1234.0);
        assert_eq!(process.threads, 7);
        assert_eq!(parse("", ""), Process::default());
        assert_eq!(parse("1 (x) S 1", "VmRSS:"), Process::default());
    }

    #[test]
    fn this_process_is_seen() {
        let process = Process::read();
        assert!(process.resident_bytes > 0 && process.threads > 0 && process.open_files > 0);
        assert!(process.start_s > 1e9, "started after 2001: {}", process.start_s);
    }
}
