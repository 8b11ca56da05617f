//! Measures a forwarded port beside a bare one, on loopback: bytes one way over 1 connection and over 100, and the time
//! of short requests, on an open connection and on one each. The bare one has one hop too: a program that copies.
//!
//! Run `cargo bench -p p2pd-tests --bench forward`. It builds the program first, as tests do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_tests::world::program;

const BYTES: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
const ROUNDS: usize = 5;
const MANY: usize = 100;
const REQUESTS: usize = 2_000;
const REQUEST: usize = 100;

/// The program, which ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program, and returns the rest of the first line that begins so.
fn starts(verb: &str, args: &[&str], begin: &str) -> (Running, String) {
    let mut command = Command::new(program());
    command.arg(verb).args(["--no-servers", "--bind", "127.0.0.1"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let running = Running(child);
    let rest = said.find_map(|line| line.unwrap().strip_prefix(begin).map(str::to_owned));
    thread::spawn(move || said.for_each(drop));
    (running, rest.unwrap())
}

fn serves(handle: impl Fn(TcpStream) + Send + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || handle(stream));
        }
    });
    at
}

/// Takes bytes to their end, and says how many.
fn sink(mut stream: TcpStream) {
    let (mut all, mut buffer) = (0_u64, vec![0; CHUNK]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all += n as u64;
    }
    let _ = stream.write_all(&all.to_be_bytes());
}

/// Answers each request of a fixed size with as many bytes.
fn answers(mut stream: TcpStream) {
    let mut request = [0; REQUEST];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&request).is_ok() {}
}

/// One hop without a session: a port whose streams lead to another one.
fn hop(to: SocketAddr) -> SocketAddr {
    serves(move |near| {
        let far = TcpStream::connect(to).unwrap();
        far.set_nodelay(true).unwrap();
        let (mut near_read, mut far_write) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let up = thread::spawn(move || {
            copy(&mut near_read, &mut far_write);
        });
        copy(&mut (&far), &mut (&near));
        let _ = near.shutdown(Shutdown::Write);
        let _ = up.join();
    })
}

fn copy(from: &mut impl Read, to: &mut (impl Write + Half)) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    to.ends();
}

/// Streams whose sending can be ended.
trait Half {
    fn ends(&self);
}

impl Half for TcpStream {
    fn ends(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Half for &TcpStream {
    fn ends(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Sends all bytes over so many connections at once, in MB/s.
fn rate(at: SocketAddr, count: usize) -> f64 {
    let each = BYTES / count / CHUNK * CHUNK;
    let began = Instant::now();
    let writers: Vec<_> = (0..count)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(at).unwrap();
                let data = vec![7; CHUNK];
                (0..each / CHUNK).for_each(|_| stream.write_all(&data).unwrap());
                stream.shutdown(Shutdown::Write).unwrap();
                let mut all = [0; 8];
                stream.read_exact(&mut all).unwrap();
                assert_eq!(u64::from_be_bytes(all), each as u64);
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    (each * count) as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// Median time of a request on an open connection, and of one with a connection of its own.
fn requests(at: SocketAddr) -> [Duration; 2] {
    let ask = |stream: &mut TcpStream| {
        let mut answer = [0; REQUEST];
        stream.write_all(&[1; REQUEST]).unwrap();
        stream.read_exact(&mut answer).unwrap();
    };
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut open = connect();
    let on_one = times(|| ask(&mut open));
    let each = times(|| ask(&mut connect()));
    [on_one, each]
}

fn times(mut once: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..REQUESTS)
        .map(|_| {
            let began = Instant::now();
            once();
            began.elapsed()
        })
        .collect();
    all.sort();
    all[all.len() / 2]
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() {
    let (sinks, answering) = (serves(sink), serves(answers));
    let services = [format!("sink={sinks}"), format!("answers={answering}")];
    let (_exposer, address) = starts("expose", &[&services[0], &services[1], "--anyone"], "ready: ");
    let door = |service: &str| {
        let (running, rest) = starts("forward", &[&address, service, "0"], "forwards: ");
        (running, rest.split(' ').next().unwrap().parse::<SocketAddr>().unwrap())
    };
    let ((_sink, to_sink), (_answers, to_answers)) = (door("sink"), door("answers"));
    let (bare_sink, bare_answers) = (hop(sinks), hop(answering));
    for (what, bare, ours) in [
        ("a request on an open connection", requests(bare_answers)[0], requests(to_answers)[0]),
        ("a request with a connection of its own", requests(bare_answers)[1], requests(to_answers)[1]),
    ] {
        println!("{what:40} bare hop {bare:>10.1?}, forwarded {ours:>10.1?}");
    }
    for count in [1, MANY] {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(rate(bare_sink, count));
            ours.push(rate(to_sink, count));
        }
        let (bare, ours) = (median(bare), median(ours));
        let ratio = ours / bare;
        println!(
            "{count:3} connection(s), one way: bare hop {bare:6.0} MB/s, forwarded {ours:6.0} MB/s, {ratio:.2} of it"
        );
    }
}
