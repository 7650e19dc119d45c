//! The control socket of a running `up`: only its user can reach it, and every request goes
//! through the loop that also watches the nodes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::limits::{LINE_BYTES_MAX, REQUEST_WITHIN, SOCKET_PATH_BYTES_MAX};
use super::protocol::{Reply, Request};
use super::report::warn;

/// A request and where its reply goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// The socket; removed with this value.
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, which is taken over from an `up` that is gone; each request is handed to
    /// `calls`.
    ///
    /// # Errors
    /// When another `up` answers there, or the path is too long for a socket.
    pub async fn listen(path: PathBuf, calls: mpsc::Sender<Call>) -> Result<ControlSocket> {
        let length = path.as_os_str().len();
        ensure!(
            length <= SOCKET_PATH_BYTES_MAX,
            "{} has {length} bytes, and a socket's path at most {SOCKET_PATH_BYTES_MAX}; choose a \
             shorter --data-dir",
            path.display()
        );
        if UnixStream::connect(&path).await.is_ok() {
            bail!(
                "a cluster is running on {} already (stop it with: meridian down)",
                path.parent().unwrap_or(Path::new(".")).display()
            );
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
        let name = || format!("the control socket {}", path.display());
        let listener = UnixListener::bind(&path).with_context(name)?;
        let only_owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, only_owner).with_context(name)?;
        tokio::spawn(accept(listener, calls));
        Ok(ControlSocket { path })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If it is gone already, there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Sends a request to the `up` that listens at `path`.
///
/// # Errors
/// When none does, or its answer cannot be understood.
pub async fn call(path: &Path, request: &Request) -> Result<Reply> {
    let stream = UnixStream::connect(path).await;
    let mut stream = stream.with_context(|| {
        format!("no cluster is running here (start one with: meridian up); {}", path.display())
    })?;
    let mut line = serde_json::to_vec(request).context("a request")?;
    line.push(b'\n');
    stream.write_all(&line).await.context("the control socket")?;
    let line = read_line(&mut stream).await?;
    serde_json::from_str(&line).context("the answer of the running cluster")
}

/// One client after the other: requests change the cluster, so they are carried out in order.
async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn(&format!("meridian: the control socket: {error}"));
                return;
            }
        };
        let reply = match timeout(REQUEST_WITHIN, receive(&mut stream)).await {
            Ok(Ok(request)) => {
                let (answer, reply) = oneshot::channel();
                if calls.send((request, answer)).await.is_err() {
                    return;
                }
                match reply.await {
                    Ok(reply) => reply,
                    Err(_) => Reply::Failed("the cluster is ending".to_owned()),
                }
            }
            Ok(Err(error)) => Reply::Failed(format!("{error:#}")),
            Err(_) => Reply::Failed("no request came".to_owned()),
        };
        let mut line = serde_json::to_vec(&reply).unwrap_or_default();
        line.push(b'\n');
        // A client that has gone away does not want to know.
        let _ = timeout(REQUEST_WITHIN, stream.write_all(&line)).await;
    }
}

async fn receive(stream: &mut UnixStream) -> Result<Request> {
    let line = read_line(stream).await?;
    serde_json::from_str(&line).context("the request")
}

async fn read_line(stream: &mut UnixStream) -> Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LINE_BYTES_MAX));
    reader.read_line(&mut line).await.context("the control socket")?;
    ensure!(line.ends_with('\n'), "the control socket closed in the middle of a line");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_answered_and_a_second_up_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up.sock");
        let (calls, mut received) = mpsc::channel::<Call>(1);
        let socket = ControlSocket::listen(path.clone(), calls.clone()).await.unwrap();
        let server = tokio::spawn(async move {
            let (request, answer) = received.recv().await.unwrap();
            answer.send(Reply::Done(format!("{request:?}"))).unwrap();
            received
        });
        let reply = call(&path, &Request::Down {}).await.unwrap();
        assert_eq!(reply, Reply::Done("Down".to_owned()));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"nonsense\n").await.unwrap();
        let line = read_line(&mut stream).await.unwrap();
        assert!(line.contains("failed"), "{line}");
        let second = ControlSocket::listen(path.clone(), calls).await.err().unwrap();
        assert!(second.to_string().contains("running"), "{second}");
        drop(server.await.unwrap());
        drop(socket);
        assert!(call(&path, &Request::Down {}).await.is_err());
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_taken_over_and_a_long_path_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (calls, _received) = mpsc::channel::<Call>(1);
        drop(ControlSocket::listen(path.clone(), calls.clone()).await.unwrap());
        assert!(!path.exists());
        let long = directory.path().join("x".repeat(SOCKET_PATH_BYTES_MAX));
        let error = ControlSocket::listen(long, calls).await.err().unwrap();
        assert!(error.to_string().contains("shorter"), "{error}");
    }
}
