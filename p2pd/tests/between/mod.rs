//! A port between two programs, whose streams a test cuts.

use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A port whose streams lead to another one until they are cut.
pub(crate) struct Between(Arc<Mutex<Vec<TcpStream>>>);

impl Between {
    /// Returns such a port in front of a node's, and the node's address with it.
    pub(crate) fn before(address: &str) -> (Self, String) {
        let to = port_of(address);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let all = streams.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                all.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut into) in [(&near, &far), (&far, &near)]
                    .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        (Between(streams), address.replace(&format!(",{to},"), &format!(",{port},")))
    }

    /// Cuts what there is off, with what is under way.
    pub(crate) fn cut(&self) {
        for stream in self.0.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The port of an address of one interface.
pub(crate) fn port_of(address: &str) -> u16 {
    address.split(',').nth(3).unwrap().parse().unwrap()
}
