//! UPnP: answers to searches, the description, and the calls of WANIPConnection that open and close ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::host::Close;

use super::{ConnId, HTTP_PORT, Output, PortControl};
use crate::net::Proto;
use crate::service::ServiceCx;

/// Requests that are longer end the stream.
const MOST: usize = 8_192;

/// Requests that have not come whole yet.
#[derive(Debug, Default)]
pub(super) struct Requests(BTreeMap<ConnId, (SocketAddr, Vec<u8>)>);

impl Requests {
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }
}

/// A call's answer, or the number of its error.
type Outcome = Result<String, u16>;

impl PortControl {
    pub(super) fn search(&mut self, cx: &mut ServiceCx, local: SocketAddr, from: SocketAddr, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let target = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
        if !text.starts_with("M-SEARCH ") || !text.contains(target) {
            return;
        }
        // What came for the group is answered from the router's own address.
        let IpAddr::V4(client) = from.ip() else { return };
        let [a, b, c, _] = client.octets();
        let own: IpAddr = [a, b, c, 1].into();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\nST: {target}\r\n\
             LOCATION: http://{own}:{HTTP_PORT}/root.xml\r\n\r\n"
        );
        let delay = self.delay(cx);
        let local = SocketAddr::new(own, local.port());
        cx.put(delay, Output::Datagram { local, to: from, data: answer.into() });
    }

    pub(super) fn opened(&mut self, conn: ConnId, remote: SocketAddr) {
        self.requests.0.insert(conn, (remote, Vec::new()));
    }

    pub(super) fn stream(&mut self, cx: &mut ServiceCx, conn: ConnId, data: &[u8]) {
        let Some((remote, held)) = self.requests.0.get_mut(&conn) else { return };
        held.extend_from_slice(data);
        let (remote, text) = (*remote, String::from_utf8_lossy(held).into_owned());
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")?.parse().ok());
            body.len() >= length.unwrap_or(0)
        });
        if !whole && text.len() <= MOST {
            return;
        }
        self.requests.forget(conn);
        let (status, body) = match text.strip_prefix("GET /root.xml ") {
            Some(_) => ("200 OK", self.description()),
            None => {
                let action = text.split_once('#').and_then(|(_, rest)| rest.split('"').next()).unwrap_or("");
                match self.call(cx, remote.ip(), action, &text) {
                    Ok(values) => (
                        "200 OK",
                        envelope(&format!("<u:{action}Response xmlns:u=\"x\">{values}</u:{action}Response>")),
                    ),
                    Err(code) => (
                        "500 Internal Server Error",
                        envelope(&format!(
                            "<s:Fault><detail><UPnPError><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>"
                        )),
                    ),
                }
            }
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let delay = self.delay(cx);
        cx.put(delay, Output::Stream { conn, data: answer.into() });
        cx.put(delay, Output::Close { conn, how: Close::Graceful });
    }

    fn description(&self) -> String {
        let version = self.spec.upnp.unwrap_or(1);
        format!(
            "<?xml version=\"1.0\"?><root><device><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:WANIPConnection:{version}</serviceType>\
             <controlURL>/ctl</controlURL></service></serviceList></device></root>"
        )
    }

    fn call(&mut self, cx: &mut ServiceCx, client: IpAddr, action: &str, text: &str) -> Outcome {
        let argument = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            rest.split('<').next()
        };
        let number = |name: &str| argument(name).and_then(|v| v.parse::<u32>().ok());
        let port = |name: &str| number(name).and_then(|n| u16::try_from(n).ok()).ok_or(402_u16);
        let proto = match argument("NewProtocol") {
            Some("UDP") => Proto::Udp,
            _ => Proto::Tcp,
        };
        let tag = |name: &str, value: &str| format!("<{name}>{value}</{name}>");
        match action {
            "GetExternalIPAddress" => Ok(tag("NewExternalIPAddress", &self.says().to_string())),
            "GetSpecificPortMappingEntry" => {
                let held = self.holder(cx.now, proto, port("NewExternalPort")?).ok_or(714_u16)?;
                Ok(tag("NewInternalPort", &held.inside.port().to_string())
                    + &tag("NewInternalClient", &held.inside.ip().to_string()))
            }
            "AddPortMapping" | "AddAnyPortMapping" => {
                let any = action == "AddAnyPortMapping";
                if any && self.spec.upnp == Some(1) {
                    return Err(401);
                }
                // Of version 2 section 2.5.16: nobody opens ports for others.
                if argument("NewInternalClient").and_then(|ip| ip.parse().ok()) != Some(client) {
                    return Err(606);
                }
                let inside = SocketAddr::new(client, port("NewInternalPort")?);
                let lease = number("NewLeaseDuration").filter(|s| *s != 0).unwrap_or(self.spec.lease);
                // This protocol's leases are as long as they were asked for.
                let most = core::mem::replace(&mut self.spec.lease, lease.max(1));
                let opened = self.open(cx, (proto, port("NewExternalPort")?), inside, None, (lease, any));
                self.spec.lease = most;
                let (external, _) = opened.map_err(|_| if any { 728_u16 } else { 718 })?;
                Ok(tag("NewReservedPort", &external.to_string()))
            }
            "DeletePortMapping" => {
                let external = port("NewExternalPort")?;
                let held = self.holder(cx.now, proto, external).ok_or(714_u16)?;
                if held.inside.ip() != client {
                    return Err(606);
                }
                self.close(cx, proto, external);
                Ok(String::new())
            }
            _ => Err(401),
        }
    }
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}\
         </s:Body></s:Envelope>"
    )
}
