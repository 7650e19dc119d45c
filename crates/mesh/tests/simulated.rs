//! The simulation drives QUIC with the numbers of the mesh, which it may not see: they are the same.

use std::time::Duration;

use meridian_mesh::{LANES, limits as real};
use meridian_simulations::quic_limits as simulated;

#[test]
fn the_simulation_configures_quic_as_the_mesh_does() {
    assert_eq!(simulated::MESSAGE_BYTES_MAX, real::MESSAGE_BYTES_MAX);
    assert_eq!(simulated::CONTROL_QUEUE_BYTES_MAX, real::CONTROL_QUEUE_BYTES_MAX);
    assert_eq!(simulated::LIVE_QUEUE_BYTES_MAX, real::LIVE_QUEUE_BYTES_MAX);
    assert_eq!(simulated::STREAM_WINDOW_BYTES, real::STREAM_WINDOW_BYTES);
    assert_eq!(simulated::CONNECTION_WINDOW_BYTES, real::CONNECTION_WINDOW_BYTES);
    assert_eq!(simulated::DATAGRAM_BUFFER_BYTES, real::DATAGRAM_BUFFER_BYTES);
    assert_eq!(simulated::READ_BYTES, real::READ_BYTES);
    assert_eq!(simulated::LANES, LANES);
    let times = [
        (simulated::IDLE_TIMEOUT_MS, real::IDLE_TIMEOUT),
        (simulated::KEEP_ALIVE_MS, real::KEEP_ALIVE),
        (simulated::INITIAL_RTT_MS, real::INITIAL_RTT),
        (simulated::ESTABLISH_TIMEOUT_MS, real::ESTABLISH_TIMEOUT),
        (simulated::BACKOFF_FIRST_MS, real::BACKOFF_FIRST),
        (simulated::BACKOFF_MAX_MS, real::BACKOFF_MAX),
        (simulated::STABLE_AFTER_MS, real::STABLE_AFTER),
    ];
    for (ms, real) in times {
        assert_eq!(Duration::from_millis(ms), real);
    }
}
