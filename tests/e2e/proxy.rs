//! A proxy between a client and a server whose faults are switched while it runs.
//!
//! It passes bytes and knows no protocol, so TLS goes through it as well. Each connection has two
//! threads, one a direction; between reads they look whether the fault has changed.
//!
//! Not done: loss of single packets, which TCP hides from both sides anyway.

use crate::postgres::free_port;
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How soon a change of the fault is noticed.
const STEP: Duration = Duration::from_millis(10);

/// Where bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What happens to bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// They pass.
    None,
    /// They stay here; connections are kept open, and new ones accepted. What was held passes once
    /// the fault ends.
    Stall,
    /// Both sides get a reset, new connections too. Unix sockets know none and are closed.
    Reset,
    /// Both sides get an orderly end.
    Close,
    /// Every piece waits.
    Delay(Duration),
}

/// A fault that comes once so many more bytes have passed in one direction, over all connections.
#[derive(Clone, Copy, Debug)]
struct Trigger {
    direction: Direction,
    bytes: u64,
    fault: Fault,
}

#[derive(Debug)]
struct Control {
    fault: Fault,
    trigger: Option<Trigger>,
}

#[derive(Debug)]
struct State {
    control: Mutex<Control>,
    /// Bytes passed to the server and to the client.
    passed: [AtomicU64; 2],
    connections: AtomicU64,
    is_ended: AtomicBool,
}

impl State {
    fn fault(&self) -> Fault {
        self.control.lock().unwrap().fault
    }

    /// How many of so many bytes may pass now; the fault that lies behind them becomes the current
    /// one.
    fn admit(&self, direction: Direction, count: usize) -> usize {
        let mut control = self.control.lock().unwrap();
        let Some(trigger) = control.trigger.as_mut() else {
            return count;
        };
        if trigger.direction != direction {
            return count;
        }
        let count_bytes = u64::try_from(count).unwrap();
        if count_bytes < trigger.bytes {
            trigger.bytes -= count_bytes;
            return count;
        }
        let admitted = usize::try_from(trigger.bytes).unwrap();
        control.fault = trigger.fault;
        control.trigger = None;
        admitted
    }
}

/// A running proxy; it ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    socket: Option<PathBuf>,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for a server on another.
    pub(crate) fn tcp(server_port: u16) -> Proxy {
        let port = free_port(0);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let accept = move || listener.accept().map(|(stream, _)| Stream::Tcp(stream));
        let connect = move || TcpStream::connect(("127.0.0.1", server_port)).map(Stream::Tcp);
        Proxy::start(port, None, accept, connect)
    }

    /// Listens in a directory, under the same name as the server's socket in its own.
    pub(crate) fn unix(directory: &Path, server_socket: &Path) -> Proxy {
        let name = server_socket.file_name().expect("a socket's path");
        let port = server_socket.extension().and_then(|port| port.to_str());
        let port = port.expect("a port").parse().unwrap();
        let socket = directory.join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let accept = move || listener.accept().map(|(stream, _)| Stream::Unix(stream));
        let server = server_socket.to_owned();
        let connect = move || UnixStream::connect(&server).map(Stream::Unix);
        Proxy::start(port, Some(socket), accept, connect)
    }

    fn start(
        port: u16,
        socket: Option<PathBuf>,
        accept: impl Fn() -> io::Result<Stream> + Send + 'static,
        connect: impl Fn() -> io::Result<Stream> + Send + 'static,
    ) -> Proxy {
        let state = Arc::new(State {
            control: Mutex::new(Control {
                fault: Fault::None,
                trigger: None,
            }),
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
            connections: AtomicU64::new(0),
            is_ended: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            let mut pumps = Vec::new();
            while !shared.is_ended.load(Ordering::Relaxed) {
                match accept() {
                    Ok(client) => {
                        shared.connections.fetch_add(1, Ordering::Relaxed);
                        if shared.fault() == Fault::Reset {
                            client.reset_on_close();
                        } else if let Ok(server) = connect() {
                            pumps.extend(start_pumps(&shared, client, server));
                        }
                    }
                    Err(_) => std::thread::sleep(STEP / 2),
                }
            }
            drop((accept, connect));
            for pump in pumps {
                let _ = pump.join();
            }
        });
        Proxy {
            port,
            socket,
            state,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sets what happens from now on, to open connections and to new ones.
    pub(crate) fn set(&self, fault: Fault) {
        let mut control = self.state.control.lock().unwrap();
        control.fault = fault;
        control.trigger = None;
    }

    /// Sets what happens after so many more bytes in a direction; until then they pass.
    pub(crate) fn set_after(&self, direction: Direction, bytes: u64, fault: Fault) {
        let mut control = self.state.control.lock().unwrap();
        control.fault = Fault::None;
        control.trigger = Some(Trigger {
            direction,
            bytes,
            fault,
        });
    }

    /// Bytes passed in a direction so far.
    pub(crate) fn passed(&self, direction: Direction) -> u64 {
        self.state.passed[index(direction)].load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_ended.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::ToServer => 0,
        Direction::ToClient => 1,
    }
}

/// The two sockets of a connection. They close with the last pump, and not before: a reset is what
/// closing does then.
#[derive(Debug)]
struct Pair {
    client: Stream,
    server: Stream,
}

fn start_pumps(state: &Arc<State>, client: Stream, server: Stream) -> [JoinHandle<()>; 2] {
    client.prepare().unwrap();
    server.prepare().unwrap();
    let pair = Arc::new(Pair { client, server });
    [Direction::ToServer, Direction::ToClient].map(|direction| {
        let (state, pair) = (Arc::clone(state), Arc::clone(&pair));
        std::thread::spawn(move || {
            let (from, to) = match direction {
                Direction::ToServer => (&pair.client, &pair.server),
                Direction::ToClient => (&pair.server, &pair.client),
            };
            let mut pump = Pump {
                state: &state,
                direction,
                from,
                to,
                is_closed: false,
            };
            pump.run();
        })
    })
}

struct Pump<'a> {
    state: &'a State,
    direction: Direction,
    from: &'a Stream,
    to: &'a Stream,
    /// The target has got its end; what still comes is thrown away, so that closing resets nothing.
    is_closed: bool,
}

impl Pump<'_> {
    fn run(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        while !self.state.is_ended.load(Ordering::Relaxed) {
            match self.state.fault() {
                Fault::Reset => {
                    self.from.reset_on_close();
                    self.to.reset_on_close();
                    return;
                }
                Fault::Close => self.close(),
                Fault::Stall => {
                    std::thread::sleep(STEP);
                    continue;
                }
                Fault::None | Fault::Delay(_) => {}
            }
            match self.from.read(&mut buffer) {
                Ok(0) => return self.close(),
                Ok(count) => self.pass(&buffer[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(_) => {
                    // A side that was reset resets the other.
                    self.to.reset_on_close();
                    return self.to.shutdown();
                }
            }
        }
    }

    fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.to.shutdown();
        }
    }

    /// Hands bytes on, as far and as late as the fault allows.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_closed {
            match self.state.fault() {
                _ if self.state.is_ended.load(Ordering::Relaxed) => return,
                Fault::Reset | Fault::Close => return,
                Fault::Stall => std::thread::sleep(STEP),
                Fault::None => bytes = self.pass_admitted(bytes),
                Fault::Delay(delay) => {
                    std::thread::sleep(delay);
                    bytes = self.pass_admitted(bytes);
                }
            }
        }
    }

    fn pass_admitted<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let (admitted, held) = bytes.split_at(self.state.admit(self.direction, bytes.len()));
        let count = u64::try_from(admitted.len()).unwrap();
        self.state.passed[index(self.direction)].fetch_add(count, Ordering::Relaxed);
        if self.to.write_all(admitted).is_err() {
            return &[];
        }
        held
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn prepare(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(STEP))
            }
            Stream::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(STEP))
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(buffer),
            Stream::Unix(stream) => (&*stream).read(buffer),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => (&*stream).write_all(bytes),
            Stream::Unix(stream) => (&*stream).write_all(bytes),
        }
    }

    fn shutdown(&self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

mod own_tests {
    //! Each fault is what it says, seen from both sides.

    use super::{Direction, Fault, Proxy};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(10);
    const MOMENT: Duration = Duration::from_millis(200);

    /// Client and server, joined by a proxy, with "hello" gone through.
    fn joined() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::tcp(listener.local_addr().unwrap().port());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.write_all(b"hello").unwrap();
        assert_eq!(&read(&mut server, 5), b"hello");
        (proxy, client, server)
    }

    fn read(stream: &mut impl Read, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn error_of_read(stream: &mut impl Read) -> ErrorKind {
        stream.read(&mut [0]).unwrap_err().kind()
    }

    #[test]
    fn bytes_pass_both_ways_and_so_does_an_end() {
        let (proxy, mut client, mut server) = joined();
        server.write_all(&[7; 300_000]).unwrap();
        assert_eq!(read(&mut client, 300_000), [7; 300_000]);
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(proxy.passed(Direction::ToServer), 5);
        assert_eq!(proxy.passed(Direction::ToClient), 300_000);
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn stalled_connection_stays_open_and_loses_nothing() {
        let (proxy, mut client, mut server) = joined();
        proxy.set(Fault::Stall);
        client.write_all(b"late").unwrap();
        server.set_read_timeout(Some(MOMENT)).unwrap();
        assert_eq!(error_of_read(&mut server), ErrorKind::WouldBlock);
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        proxy.set(Fault::None);
        assert_eq!(&read(&mut server, 4), b"late");
    }

    #[test]
    fn reset_reaches_both_sides_and_new_connections() {
        let (proxy, mut client, mut server) = joined();
        proxy.set(Fault::Reset);
        assert_eq!(error_of_read(&mut client), ErrorKind::ConnectionReset);
        assert_eq!(error_of_read(&mut server), ErrorKind::ConnectionReset);
        let mut second = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(error_of_read(&mut second), ErrorKind::ConnectionReset);
    }

    #[test]
    fn truncation_passes_the_bytes_before_it_and_then_ends() {
        let (proxy, mut client, mut server) = joined();
        proxy.set_after(Direction::ToClient, 3, Fault::Close);
        server.write_all(b"abcdef").unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"abc");
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn cut_counts_one_direction_only() {
        let (proxy, mut client, mut server) = joined();
        proxy.set_after(Direction::ToServer, 4, Fault::Reset);
        server.write_all(b"0123456789").unwrap();
        assert_eq!(&read(&mut client, 10), b"0123456789");
        client.write_all(b"abcdef").unwrap();
        assert_eq!(&read(&mut server, 4), b"abcd");
        assert_eq!(error_of_read(&mut server), ErrorKind::ConnectionReset);
        assert_eq!(error_of_read(&mut client), ErrorKind::ConnectionReset);
    }

    #[test]
    fn delayed_bytes_come_late_and_whole() {
        let (proxy, mut client, mut server) = joined();
        proxy.set(Fault::Delay(MOMENT));
        let began = Instant::now();
        client.write_all(b"late").unwrap();
        assert_eq!(&read(&mut server, 4), b"late");
        assert!(began.elapsed() >= MOMENT);
    }

    #[test]
    fn server_that_is_not_there_ends_the_connection() {
        let port = crate::postgres::free_port(0);
        let proxy = Proxy::tcp(port);
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn unix_sockets_go_through_too_and_are_removed() {
        let scratch = tempfile::tempdir_in("/tmp").unwrap();
        let (behind, front) = (scratch.path().join("a"), scratch.path().join("b"));
        std::fs::create_dir(&behind).unwrap();
        std::fs::create_dir(&front).unwrap();
        let name = ".s.PGSQL.5432";
        let listener = UnixListener::bind(behind.join(name)).unwrap();
        let proxy = Proxy::unix(&front, &behind.join(name));
        assert_eq!(proxy.port(), 5432);
        let mut client = UnixStream::connect(front.join(name)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(&read(&mut server, 5), b"hello");
        proxy.set(Fault::Reset);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(proxy);
        assert!(!front.join(name).exists());
    }
}
