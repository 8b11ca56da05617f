//! hyper as it is: an HTTP/1 server behind a NAT with a port forward, and a client behind another.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use p2pd_netsim::aio::net::{TcpListener, TcpStream};
use p2pd_netsim::aio::time::now;
use p2pd_netsim::aio::{Process, Sim, spawn};
use p2pd_netsim::engine::MILLI;
use p2pd_netsim::nat::Order;
use p2pd_netsim::net::{LinkSpec, Proto};
use p2pd_netsim::world::{SiteSpec, World};

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("{path} took {length} bytes"))))
}

async fn serve() {
    let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        spawn(async {
            // The date would be the real one.
            let http = hyper::server::conn::http1::Builder::new().auto_date_header(false).clone();
            http.serve_connection(TokioIo::new(stream), service_fn(answer)).await.unwrap();
        });
    }
}

/// One request on a connection of its own; the answer's text.
async fn post(to: SocketAddr, path: &str, body: impl Into<Bytes>) -> String {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    spawn(async { connection.await.unwrap() });
    let request =
        Request::post(path).header("host", "home.example").body(Full::<Bytes>::from(body.into())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn run(seed: u64) -> (String, u64) {
    let mut world: World<Process> = World::new(seed);
    let link = LinkSpec::with_delay(20 * MILLI);
    let [mut server_home, mut client_home] = [(1, "openwrt"), (2, "linux-random")]
        .map(|(number, nat)| world.add_site(&SiteSpec { number, chain: nat.parse().unwrap(), link }));
    // The router of the server's home opens its port 8080 to the server, as its user would.
    let router = world.add_router(&mut server_home, Process::default()).unwrap();
    let server = world.add_host_at(&mut server_home, Process::default());
    let client = world.add_host_at(&mut client_home, Process::default());
    let inside = SocketAddr::new(world.host(server).addresses()[0], 80);
    world.with(router, |_, cx| {
        cx.order(Order::Open { proto: Proto::Tcp, external: 8080, inside, until: u64::MAX });
    });
    let mut sim = Sim::over(world);
    sim.spawn(server, serve());
    let to = SocketAddr::new(server_home.external[0], 8080);
    let text = sim.block_on(client, async move {
        let small = post(to, "/small", "hello").await;
        // A round trip of 80 ms for the connection, and one for the request.
        assert_eq!(now().since_start().as_millis(), 160);
        let large = post(to, "/large", vec![7; 1 << 20]).await;
        format!("{small}, {large}")
    });
    sim.world().check().unwrap();
    (text, sim.world().digest())
}

#[test]
fn hyper_serves_through_two_nats() {
    let (text, digest) = run(1);
    assert_eq!(text, "/small took 5 bytes, /large took 1048576 bytes");
    assert_eq!(run(1), (text, digest));
    assert_ne!(run(2).1, digest);
}
