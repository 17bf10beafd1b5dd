//! Bytes to and from a server, in the clear or in TLS, without ever waiting unwatched.
//!
//! Sockets do not block. Every wait is a poll in slices of [`SERVER_POLL_MS`], so that a cancelled
//! run is noticed soon, and has a deadline. A connection is never read beyond the answer to the
//! request for TLS before TLS is there, so nothing that came in the clear counts as protected.

use super::target::KeepAlive;
use super::{ServerAddress, ServerError};
use crate::limits::SERVER_POLL_MS;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 64 * 1024;

/// How long to wait, for what, and whose word ends it early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait<'a> {
    pub(super) cancel: Option<&'a AtomicBool>,
    pub(super) deadline: Instant,
    pub(super) limit: Duration,
    pub(super) what: &'a str,
}

impl<'a> Wait<'a> {
    pub(super) fn new(limit: Duration, cancel: Option<&'a AtomicBool>, what: &'a str) -> Wait<'a> {
        // A limit beyond what the clock holds is as good as a year.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let now = Instant::now();
        Wait {
            cancel,
            deadline: now.checked_add(limit).unwrap_or(now + YEAR),
            limit,
            what,
        }
    }

    fn check_cancel(&self) -> Result<(), ServerError> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ServerError::Interrupted),
            _ => Ok(()),
        }
    }

    /// Time until the next look at the flag or the deadline; `None` past the deadline.
    fn slice(&self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(Duration::from_millis(SERVER_POLL_MS)))
    }

    fn timed_out(&self, address: &ServerAddress) -> ServerError {
        ServerError::TimedOut {
            address: address.clone(),
            what: self.what.to_owned(),
            limit: self.limit,
        }
    }

    fn lost(&self, address: &ServerAddress, reason: io::Error) -> ServerError {
        ServerError::Lost {
            address: address.clone(),
            what: self.what.to_owned(),
            reason,
        }
    }
}

/// Where a socket goes: an address of which nothing is left to look up.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Unix(SocketAddrUnix),
    Tcp(SocketAddr),
}

/// The endpoints of `address`: several when a name has several numbers.
pub(super) fn look_up(
    address: &ServerAddress,
    wait: Wait<'_>,
) -> Result<Vec<Endpoint>, ServerError> {
    let (host, port) = match address {
        ServerAddress::Unix { path } => {
            let endpoint =
                SocketAddrUnix::new(path.as_path()).map_err(|reason| ServerError::Unreachable {
                    address: address.clone(),
                    reason: reason.into(),
                })?;
            return Ok(vec![Endpoint::Unix(endpoint)]);
        }
        ServerAddress::Tcp {
            ip: Some(ip), port, ..
        } => {
            return Ok(vec![Endpoint::Tcp(SocketAddr::new(*ip, *port))]);
        }
        ServerAddress::Tcp { host, port, .. } => (host.clone(), *port),
    };
    let no_such_host = |reason: String| ServerError::NoSuchHost {
        host: host.clone(),
        reason,
    };
    // The resolver cannot be interrupted: it gets a thread, which is left behind when it takes too
    // long.
    let (sender, receiver) = sync_channel(1);
    let name = host.clone();
    std::thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            // Nobody listens any more when the wait is over.
            let _ = sender.send(found.map(Iterator::collect::<Vec<_>>));
        })
        .map_err(|error| no_such_host(error.to_string()))?;
    loop {
        wait.check_cancel()?;
        let slice = wait.slice().ok_or_else(|| wait.timed_out(address))?;
        match receiver.recv_timeout(slice) {
            Ok(Ok(found)) if found.is_empty() => {
                return Err(no_such_host("the name has no address".to_owned()));
            }
            Ok(Ok(found)) => return Ok(found.into_iter().map(Endpoint::Tcp).collect()),
            Ok(Err(error)) => return Err(no_such_host(error.to_string())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(no_such_host("the resolver ended".to_owned()));
            }
        }
    }
}

/// A socket that neither blocks nor raises SIGPIPE.
#[derive(Debug)]
struct RawSocket(OwnedFd);

impl Read for RawSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, bytes) = recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(bytes)
    }
}

impl Write for RawSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connected socket, with TLS on it or not.
#[derive(Debug)]
pub(super) struct Stream {
    socket: RawSocket,
    tls: Option<Box<ClientConnection>>,
    address: ServerAddress,
    endpoint: Endpoint,
}

impl Stream {
    /// Connects to `endpoint`, one of those of `address`.
    pub(super) fn connect(
        endpoint: &Endpoint,
        address: &ServerAddress,
        keep_alive: KeepAlive,
        wait: Wait<'_>,
    ) -> Result<Stream, ServerError> {
        let unreachable = |reason: Errno| ServerError::Unreachable {
            address: address.clone(),
            reason: reason.into(),
        };
        let family = match endpoint {
            Endpoint::Unix(_) => AddressFamily::UNIX,
            Endpoint::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Endpoint::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(unreachable)?;
        let stream = Stream {
            socket: RawSocket(socket),
            tls: None,
            address: with_number(address, endpoint),
            endpoint: endpoint.clone(),
        };
        if matches!(endpoint, Endpoint::Tcp(_)) {
            set_options(&stream.socket.0, keep_alive).map_err(unreachable)?;
        }
        loop {
            let begun = match endpoint {
                Endpoint::Unix(path) => connect(&stream.socket.0, path),
                Endpoint::Tcp(number) => connect(&stream.socket.0, number),
            };
            match begun {
                Ok(()) | Err(Errno::ISCONN) => return Ok(stream),
                // A full queue of a socket file, which nothing reports the end of.
                Err(Errno::AGAIN) => stream.pause(wait)?,
                Err(Errno::INTR) => wait.check_cancel()?,
                Err(Errno::INPROGRESS | Errno::ALREADY) => break,
                Err(reason) => return Err(unreachable(reason)),
            }
        }
        stream.wait_for(PollFlags::OUT, wait)?;
        match sockopt::socket_error(&stream.socket.0) {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(reason)) | Err(reason) => Err(unreachable(reason)),
        }
    }

    /// The server's address, with the number that its name has.
    pub(super) fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The other end, for another connection to the same place.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The TLS session, once there is one.
    pub(super) fn tls(&self) -> Option<&ClientConnection> {
        self.tls.as_deref()
    }

    /// Shakes hands for TLS.
    pub(super) fn start_tls(
        &mut self,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        wait: Wait<'_>,
    ) -> Result<(), ServerError> {
        let session =
            ClientConnection::new(config, name).map_err(|reason| self.tls_error(reason))?;
        self.tls = Some(Box::new(session));
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush_tls(wait)?;
            if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) && !self.fill_tls(wait)? {
                return Err(self.closed(wait));
            }
        }
        self.flush_tls(wait)
    }

    /// Waits for bytes and appends them to `into`: how many, 0 at the end of the stream, `None`
    /// when the deadline came first.
    pub(super) fn read(
        &mut self,
        into: &mut Vec<u8>,
        wait: Wait<'_>,
    ) -> Result<Option<usize>, ServerError> {
        let old = into.len();
        into.resize(old + READ_BYTES, 0);
        let result = self.read_slice(&mut into[old..], wait);
        let bytes = match &result {
            Ok(bytes) => *bytes,
            Err(_) => 0,
        };
        into.truncate(old + bytes);
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ServerError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for bytes; 0 is the end of the stream.
    pub(super) fn read_slice(
        &mut self,
        buffer: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, ServerError> {
        loop {
            let Some(tls) = &mut self.tls else {
                match self.socket.read(buffer) {
                    Err(error) if is_temporary(&error) => self.wait_for(PollFlags::IN, wait)?,
                    Err(reason) => return Err(wait.lost(&self.address, reason)),
                    Ok(bytes) => return Ok(bytes),
                }
                continue;
            };
            match tls.reader().read(buffer) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if is_temporary(&error) => {
                    self.flush_tls(wait)?;
                    if !self.fill_tls(wait)? {
                        return Ok(0);
                    }
                }
                Err(reason) => return Err(wait.lost(&self.address, reason)),
            }
        }
    }

    /// Sends all of `bytes`.
    pub(super) fn write_all(&mut self, bytes: &[u8], wait: Wait<'_>) -> Result<(), ServerError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = match &mut self.tls {
                Some(tls) => tls.writer().write(rest),
                None => self.socket.write(rest),
            };
            match sent {
                Ok(bytes) => rest = &rest[bytes..],
                Err(error) if is_temporary(&error) => self.wait_for(PollFlags::OUT, wait)?,
                Err(reason) => return Err(wait.lost(&self.address, reason)),
            }
            self.flush_tls(wait)?;
        }
        Ok(())
    }

    /// Tells the peer that TLS ends, when that can be done at once.
    pub(super) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection ends whether or not this arrives.
            let _ = tls.write_tls(&mut self.socket);
        }
    }

    fn flush_tls(&mut self, wait: Wait<'_>) -> Result<(), ServerError> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if is_temporary(&error) => self.wait_for(PollFlags::OUT, wait)?,
                Err(reason) => return Err(wait.lost(&self.address, reason)),
            }
        }
        Ok(())
    }

    /// Takes encrypted bytes from the socket; false at their end.
    fn fill_tls(&mut self, wait: Wait<'_>) -> Result<bool, ServerError> {
        let tls = self.tls.as_mut().expect("called with TLS only");
        match tls.read_tls(&mut self.socket) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if is_temporary(&error) => {
                self.wait_for(PollFlags::IN, wait)?;
                return Ok(true);
            }
            Err(reason) => return Err(wait.lost(&self.address, reason)),
        }
        if let Err(reason) = tls.process_new_packets() {
            // What went wrong is worth telling the peer, if it still listens.
            let _ = tls.write_tls(&mut self.socket);
            return Err(self.tls_error(reason));
        }
        Ok(true)
    }

    fn wait_for(&self, events: PollFlags, wait: Wait<'_>) -> Result<(), ServerError> {
        loop {
            wait.check_cancel()?;
            let slice = wait.slice().ok_or_else(|| wait.timed_out(&self.address))?;
            let timeout = Timespec {
                tv_sec: i64::try_from(slice.as_secs()).unwrap_or(i64::MAX),
                // A slice that rounds to nothing would poll without a pause.
                tv_nsec: i64::from(slice.subsec_nanos()),
            };
            let mut files = [PollFd::new(&self.socket.0, events)];
            match rustix::event::poll(&mut files, Some(&timeout)) {
                // Errors show in the call that follows.
                Ok(ready) if ready > 0 => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(reason) => return Err(wait.lost(&self.address, reason.into())),
            }
        }
    }

    fn pause(&self, wait: Wait<'_>) -> Result<(), ServerError> {
        const PAUSE: Duration = Duration::from_millis(10);
        wait.check_cancel()?;
        let slice = wait.slice().ok_or_else(|| wait.timed_out(&self.address))?;
        std::thread::sleep(slice.min(PAUSE));
        Ok(())
    }

    fn tls_error(&self, reason: rustls::Error) -> ServerError {
        ServerError::Tls {
            address: self.address.clone(),
            reason,
        }
    }

    /// The error of a stream that ended too early.
    pub(super) fn closed(&self, wait: Wait<'_>) -> ServerError {
        ServerError::Closed {
            address: self.address.clone(),
            what: wait.what.to_owned(),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn with_number(address: &ServerAddress, endpoint: &Endpoint) -> ServerAddress {
    let number: Option<IpAddr> = match endpoint {
        Endpoint::Tcp(number) => Some(number.ip()),
        Endpoint::Unix(_) => None,
    };
    match address {
        ServerAddress::Tcp { host, port, .. } => ServerAddress::Tcp {
            host: host.clone(),
            ip: number,
            port: *port,
        },
        ServerAddress::Unix { .. } => address.clone(),
    }
}

fn set_options(socket: &OwnedFd, keep_alive: KeepAlive) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    if let Some(timeout) = keep_alive.user_timeout {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    if !keep_alive.enabled {
        return Ok(());
    }
    sockopt::set_socket_keepalive(socket, true)?;
    if let Some(idle) = keep_alive.idle {
        sockopt::set_tcp_keepidle(socket, idle)?;
    }
    if let Some(interval) = keep_alive.interval {
        sockopt::set_tcp_keepintvl(socket, interval)?;
    }
    if let Some(count) = keep_alive.count {
        sockopt::set_tcp_keepcnt(socket, count)?;
    }
    Ok(())
}
