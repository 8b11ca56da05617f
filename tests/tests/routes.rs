//! Routes of a machine with two lines, in the lab's namespaces: measured, used, told of, and changing.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use p2pd_core::io::LinkKind;
use p2pd_core::{Config, SecretKey, StunServer};
use p2pd_tests::lab::{Host, services::Coturn};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World};
use p2pd_tokio::Node;
use p2pd_tokio::messages::stun::Client;
use p2pd_tokio::messages::{Family, MessagePipe, NetworkChange, PipeOptions, Protocol, Route};

/// The first host has a second line, into the second home, which is worse.
fn two_lines() -> World {
    let world = World::new(&["pr", "pr", "none"]);
    let [ours, gateway] = world.lab.plug(0, 1, "eth1").unwrap();
    let host = world.lab.host(0);
    let [a, b, c, _] = host.ip().octets();
    let first = format!("{a}.{b}.{c}.1");
    let lines = format!(
        "route del default via {first}\nroute add default metric 100 via {first}\naddr replace {ours}/24 dev eth1\n\
         link set eth1 up\nroute add default metric 200 via {gateway}\n"
    );
    host.ip_batch(&lines).unwrap();
    // The kernel says of a link that has just come up that it is down, for a moment.
    let is_dead = || p2pd_sys::cards().iter().any(|card| card.name == "eth1" && card.link == LinkKind::Dead);
    let until = Instant::now() + PATIENCE;
    while host.enter(is_dead) {
        assert!(Instant::now() < until, "the second line comes up");
        std::thread::sleep(Duration::from_millis(5));
    }
    world
}

fn stun(server: &Coturn) -> StunServer {
    StunServer { host: server.addr().ip().to_string().into(), port: server.addr().port() }
}

/// Runs within the host's namespace, on a runtime of its own.
fn within<T: Send>(host: &Host, work: impl Future<Output = T> + Send) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    host.enter(|| runtime().block_on(work))
}

#[test]
fn each_line_is_a_route_and_what_is_bound_to_it_leaves_by_it() {
    require_lab!(Mosquitto, Coturn);
    let world = two_lines();
    let wans = [0, 1].map(|home| std::net::IpAddr::from(world.lab.host(home).wan()));
    let server = world.stun.addr();
    within(world.lab.host(0), async {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
        config.stun = vec![stun(&world.stun)];
        let node = Node::bind(config).await.unwrap();
        let table = node.routes().await;
        node.shutdown().await;
        let rows: Vec<_> = table.iter().filter(|row| row.source.is_ipv4()).collect();
        let ext = rows.iter().map(|row| (&*row.interface, row.ext.first(), row.ext.prefix()));
        assert_eq!(ext.collect::<Vec<_>>(), [("eth0", wans[0], 32), ("eth1", wans[1], 32)], "{table:?}");
        // Without the interface the second line's address leaves by the first, whose router has it come from nowhere.
        let bare = Client::new(server, Route::from(rows[1].source));
        let outside = tokio::time::timeout(Duration::from_millis(300), bare.external_ip()).await;
        assert!(!matches!(&outside, Ok(Ok(ip)) if *ip == wans[1]), "{outside:?}");
        for (n, row) in rows.iter().enumerate() {
            let outside = Client::new(server, row.route(0)).external_ip().await.unwrap();
            assert_eq!(outside, wans[n], "{row}");
            let pipe = MessagePipe::open(Protocol::Tcp, server, row.route(0), &PipeOptions::default())
                .await
                .unwrap();
            assert_eq!(pipe.interface().map(|card| card.name).as_ref(), Some(&row.interface));
            assert_eq!(pipe.route(), Route::from(pipe.local_addr()).by(row.index));
            assert_eq!(table.of(pipe.local_addr().ip()).map(|row| row.ext.first()), Some(wans[n]));
            assert!(pipe.with_socket(|socket| socket.as_raw_fd()).unwrap() > 2);
            pipe.close().await;
            pipe.ended().await;
            assert_eq!(pipe.with_socket(|_| ()), None);
        }
        let sources: Vec<_> = table.sources(Family::V4).map(|route| route.interface()).collect();
        assert_eq!(sources, [Some(rows[0].index), Some(rows[1].index)]);
    });
    // What the program and a service of one's own say of it.
    let mut lister = world.run(world.lab.host(0), &["interfaces"]);
    assert!(lister.wait(PATIENCE).unwrap().success());
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let listed = lister.lines().iter().map(|line| json(&line.text));
    let routes: Vec<_> = listed.filter(|event| event["event"] == "route" && event["af"] == 2).collect();
    assert_eq!(routes.len(), 2, "{routes:?}");
    assert_eq!(
        (&routes[1]["if"]["name"], &routes[1]["ext_ips"][0]["ip"]),
        (&"eth1".into(), &wans[1].to_string().into())
    );
}

#[test]
fn a_service_tells_its_clients_their_route() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "none"]);
    let (server, client) = (world.lab.host(1), world.lab.host(0));
    let example = p2pd_tests::world::built(&["--workspace", "--examples"]).join("examples/net_info_server");
    let (at, stun) = (format!("{}:20000", server.ip()), world.stun.addr());
    let args = [&*at, &stun.ip().to_string(), &stun.port().to_string()];
    let mut service = server.run(example.to_str().unwrap(), args).unwrap();
    service.wait_for_line(|line| line == format!("listening on {at}"), PATIENCE).unwrap();
    let ask = |path: &str| -> serde_json::Value {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = client.enter(|| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(&at).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let told = ask("/mapping");
    let range = serde_json::json!([{"ip": server.ip().to_string(), "cidr": 32}]);
    assert_eq!((&told["error"], &told["laddr"]), (&0.into(), &at.as_str().into()), "{told}");
    assert_eq!(told["route"], serde_json::json!({"af": 2, "nic_ips": range, "ext_ips": range}));
    assert_eq!(told["if"]["name"], "eth0");
    assert!(told["fd"].as_i64() > Some(2), "{told}");
    let client = client.wan().to_string();
    assert!(told["raddr"].as_str().unwrap().starts_with(&client), "{told}");
    assert_eq!(ask("/other"), serde_json::json!({"error": 2, "msg": "method not implemented"}));
}

/// Time from the change until a pipe's handler is called: 250 ms of quiet, and what a busy machine needs.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

#[test]
fn pipes_of_messages_are_told_when_their_address_goes_and_comes_back() {
    require_lab!(Mosquitto, Coturn);
    let world = two_lines();
    let host = world.lab.host(0);
    let second =
        within(host, async { p2pd_sys::cards().into_iter().find(|card| card.name == "eth1").unwrap() });
    let (ip, prefix) = second.addresses[0];
    let change = |there: bool| {
        let word = if there { "replace" } else { "del" };
        host.ip_batch(&format!("addr {word} {ip}/{prefix} dev eth1\n")).unwrap();
        Instant::now()
    };
    let expected = [(false, NetworkChange::Gone), (true, NetworkChange::Back)];
    let options = PipeOptions::default();

    // tokio, with the pipe of a runtime that runs in the host's namespace.
    within(host, async {
        let pipe = MessagePipe::bind(Route::from(ip), &options).unwrap();
        let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
        let id = pipe.on_network_change(move |change| {
            let _ = told.send(change);
            async {}
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (there, meaning) in expected {
            let when = change(there);
            while news.recv().await != Some(meaning) {}
            println!("tokio: {meaning:?} after {:?}", when.elapsed());
            assert!(when.elapsed() < TOLD_WITHIN);
        }
        assert!(pipe.remove_callback(id) && !pipe.remove_callback(id));
        change(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        change(true);
        while let Some(other) = news.recv().await {
            assert_eq!(other, NetworkChange::Other, "the last one's route");
        }
    });

    // async-std, whose threads are begun here, in this namespace.
    host.enter(|| {
        let pipe = p2pd_async_std::messages::MessagePipe::bind(Route::from(ip), &options).unwrap();
        let (told, news) = std::sync::mpsc::channel();
        pipe.on_network_change(move |change| {
            let _ = told.send(change);
            async {}
        });
        std::thread::sleep(Duration::from_millis(500));
        for (there, meaning) in expected {
            let when = change(there);
            while news.recv_timeout(PATIENCE) != Ok(meaning) {}
            println!("async-std: {meaning:?} after {:?}", when.elapsed());
            assert!(when.elapsed() < TOLD_WITHIN);
        }
        drop(pipe);
        // Its task goes with it.
        while news.recv_timeout(PATIENCE) != Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {}
    });

    // mio.
    host.enter(|| {
        use p2pd_mio::messages::{News, Pipes};
        let (mut poll, mut events) = (mio::Poll::new().unwrap(), mio::Events::with_capacity(16));
        let mut pipes = Pipes::new(poll.registry(), 0..8).unwrap();
        let pipe = pipes.bind(Route::from(ip), &options).unwrap();
        assert_eq!(pipes.interface(pipe).unwrap().name, "eth1");
        assert_eq!(pipes.route(pipe), Some(Route::from(pipes.local_addr(pipe).unwrap()).by(second.index)));
        assert!(pipes.with_socket(pipe, |socket| socket.as_raw_fd()).unwrap() > 2);
        assert!(pipes.watch_network(pipe).unwrap());
        for (there, meaning) in expected {
            let when = change(there);
            'told: loop {
                poll.poll(&mut events, pipes.timeout()).unwrap();
                for event in &events {
                    assert!(pipes.handle(event));
                }
                pipes.tick();
                while let Some(news) = pipes.poll() {
                    if matches!(news, News::Network(of, change) if of == pipe && change == meaning) {
                        break 'told;
                    }
                }
            }
            println!("mio: {meaning:?} after {:?}", when.elapsed());
            assert!(when.elapsed() < TOLD_WITHIN);
        }
        assert!(pipes.close(pipe));
        assert!(!pipes.watch_network(pipe).unwrap());
    });
}
