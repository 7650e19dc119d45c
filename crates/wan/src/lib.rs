//! A wide area network in user space, for demonstrations and tests on one machine.
//!
//! Regions on one machine are microseconds apart; what they promise is about regions that are
//! 40 to 110 ms apart, on lines that lose packets and break. A [`Wan`] is a set of links, each a
//! local UDP port whose datagrams reach another address after a delay, or not at all:
//!
//! - [`schedule`] and [`path`] decide what arrives when (pure, seeded);
//! - one thread delivers, precise to well below a millisecond;
//! - a [`WanHandle`] cuts, heals and reshapes links at run time.
//!
//! It needs no privileges. What it does not do: TCP, corruption, duplication.

mod courier;
pub mod limits;
pub mod path;
mod relay;
pub mod schedule;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use courier::{Courier, Line};
pub use path::Shape;
use relay::{Relay, TwinSocket};

/// A link to build: what arrives at `listen` goes to `to`, and the answers come back.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Where clients send; port 0 takes a free one, see [`WanHandle::listen_addr`].
    pub listen: SocketAddr,
    /// The far end.
    pub to: SocketAddr,
    /// How both directions treat packets.
    pub shape: Shape,
}

/// A link's place in the list that the WAN was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub usize);

/// The two ways along a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the far end.
    Forward,
    /// From the far end back to the client.
    Backward,
}

/// Why a WAN did not start or a request to it was refused.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// The listening address could not be bound.
    #[error("link {link}: cannot listen on {listen}")]
    Listen {
        /// The link's place in the list.
        link: usize,
        /// The address that was asked for.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The delivering thread could not be started.
    #[error("cannot start the delivering thread")]
    Thread(#[source] std::io::Error),
    /// A loss outside 0 to 1, a delay beyond [`limits::DELAY_MAX`], or a rate of 0.
    #[error("link {link}: a loss is 0 to 1, a delay up to 60 s, a rate above 0")]
    Shape {
        /// The link's place in the list.
        link: usize,
    },
    /// There is no such link.
    #[error("there is no link {link}")]
    NoSuchLink {
        /// The place that was asked for.
        link: usize,
    },
}

/// What has happened on one direction of a link, in packets unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineStats {
    /// Delivered.
    pub forwarded: u64,
    /// Delivered, in bytes of payload.
    pub forwarded_bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the link was cut.
    pub cut: u64,
    /// Lost because a buffer was full.
    pub overflowed: u64,
}

/// What has happened on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// From clients to the far end.
    pub forward: LineStats,
    /// From the far end to clients.
    pub backward: LineStats,
    /// Client addresses served now.
    pub flows: usize,
}

/// Starts links; see [`Wan::start`].
#[derive(Debug)]
pub struct Wan;

impl Wan {
    /// Binds every link and carries packets until the last handle is dropped or
    /// [`WanHandle::stop`]. Losses and jitter follow from `seed`. Call it within a Tokio runtime.
    pub fn start(links: Vec<Link>, seed: u64) -> Result<WanHandle, WanError> {
        for (link, wanted) in links.iter().enumerate() {
            if !wanted.shape.is_valid() {
                return Err(WanError::Shape { link });
            }
        }
        let (courier, thread) = Courier::start().map_err(WanError::Thread)?;
        // From here on, dropping `inner` undoes what was started.
        let mut inner = Inner {
            links: Vec::with_capacity(links.len()),
            tasks: Vec::with_capacity(links.len()),
            courier: courier.clone(),
            thread: Mutex::new(Some(thread)),
        };
        for (index, link) in links.into_iter().enumerate() {
            let bound = |source| WanError::Listen { link: index, listen: link.listen, source };
            let listening = TwinSocket::bind(link.listen).map_err(bound)?;
            let listen = listening.local_addr().map_err(bound)?;
            // Every line has a seed of its own, else all would lose the same packets.
            let line =
                |way: u64| Arc::new(Line::new(link.shape, seed ^ (index as u64 * 2 + way) << 32));
            let relay = Arc::new(Relay {
                to: link.to,
                forward: line(0),
                backward: line(1),
                flows: Default::default(),
                courier: courier.clone(),
            });
            inner.tasks.push(tokio::spawn(relay::run(relay.clone(), listening)).abort_handle());
            inner.links.push((listen, relay));
        }
        Ok(WanHandle { inner: Arc::new(inner) })
    }
}

/// Steers a running WAN. Clones steer the same one; it stops with the last of them.
#[derive(Debug, Clone)]
pub struct WanHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    links: Vec<(SocketAddr, Arc<Relay>)>,
    tasks: Vec<tokio::task::AbortHandle>,
    courier: Arc<Courier>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl WanHandle {
    /// Cuts both directions; packets in flight are lost.
    pub fn cut(&self, link: LinkId) -> Result<(), WanError> {
        self.set_cut(link, Direction::Forward, true)?;
        self.set_cut(link, Direction::Backward, true)
    }

    /// Heals both directions.
    pub fn heal(&self, link: LinkId) -> Result<(), WanError> {
        self.set_cut(link, Direction::Forward, false)?;
        self.set_cut(link, Direction::Backward, false)
    }

    /// Cuts or heals one direction.
    pub fn set_cut(
        &self,
        link: LinkId,
        direction: Direction,
        is_cut: bool,
    ) -> Result<(), WanError> {
        self.line(link, direction)?.path().set_cut(is_cut);
        Ok(())
    }

    /// Changes delay, jitter, loss and rate of both directions for packets sent from now on.
    pub fn set_shape(&self, link: LinkId, shape: Shape) -> Result<(), WanError> {
        if !shape.is_valid() {
            return Err(WanError::Shape { link: link.0 });
        }
        for direction in [Direction::Forward, Direction::Backward] {
            self.line(link, direction)?.path().set_shape(shape);
        }
        Ok(())
    }

    /// How packets are treated now.
    pub fn shape(&self, link: LinkId) -> Result<Shape, WanError> {
        Ok(self.line(link, Direction::Forward)?.path().shape())
    }

    /// Where the link listens.
    pub fn listen_addr(&self, link: LinkId) -> Result<SocketAddr, WanError> {
        Ok(self.link(link)?.0)
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.inner.links.len()
    }

    /// What has happened on a link.
    pub fn stats(&self, link: LinkId) -> Result<LinkStats, WanError> {
        let (_, relay) = self.link(link)?;
        Ok(LinkStats {
            forward: stats_of(&relay.forward),
            backward: stats_of(&relay.backward),
            flows: relay.flows.load(Relaxed),
        })
    }

    /// Stops carrying packets; ports are freed once the tasks have ended.
    pub fn stop(&self) {
        self.inner.stop();
    }

    fn link(&self, link: LinkId) -> Result<&(SocketAddr, Arc<Relay>), WanError> {
        self.inner.links.get(link.0).ok_or(WanError::NoSuchLink { link: link.0 })
    }

    fn line(&self, link: LinkId, direction: Direction) -> Result<&Line, WanError> {
        let (_, relay) = self.link(link)?;
        Ok(match direction {
            Direction::Forward => &relay.forward,
            Direction::Backward => &relay.backward,
        })
    }
}

impl Inner {
    fn stop(&self) {
        self.tasks.iter().for_each(|task| task.abort());
        self.courier.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It cannot fail to end: it only sleeps until it is told.
            drop(thread.join());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stats_of(line: &Line) -> LineStats {
    LineStats {
        forwarded: line.forwarded.load(Relaxed),
        forwarded_bytes: line.forwarded_bytes.load(Relaxed),
        lost: line.lost.load(Relaxed),
        cut: line.cut.load(Relaxed),
        overflowed: line.overflowed.load(Relaxed),
    }
}
