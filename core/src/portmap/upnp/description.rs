//! A device's description (UPnP Device Architecture 2.0 section 2.3): the services that open ports.

use smallvec::SmallVec;

use super::http::Url;
use super::xml;
use crate::portmap::MapError;

/// Most services of one device that are tried.
const MAX_SERVICES: usize = 4;

/// Services that are used here, the best first.
const KINDS: [(&str, Kind); 4] = [
    ("urn:schemas-upnp-org:service:WANIPConnection:2", Kind::Wan { any: true }),
    ("urn:schemas-upnp-org:service:WANIPConnection:1", Kind::Wan { any: false }),
    ("urn:schemas-upnp-org:service:WANPPPConnection:1", Kind::Wan { any: false }),
    ("urn:schemas-upnp-org:service:WANIPv6FirewallControl:1", Kind::Firewall),
];

/// Purpose of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Maps ports of IPv4; `any`: the service can choose an external port itself.
    Wan { any: bool },
    /// Opens pinholes for IPv6.
    Firewall,
}

/// A service and the URL to call its actions at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Service {
    pub(super) kind: Kind,
    pub(super) urn: &'static str,
    pub(super) control: Url,
}

/// The services in a description, the best first.
pub(super) fn services(body: &[u8], location: &Url, zone: u32) -> Result<SmallVec<[Service; 4]>, MapError> {
    let document = xml::parse(body).map_err(|_| MapError::BadAnswer)?;
    let root = document.root_element();
    let base = xml::text(root, "URLBase").filter(|b| !b.is_empty()).and_then(|b| location.join(b, zone));
    let base = base.as_ref().unwrap_or(location);
    let mut found: SmallVec<[Service; 4]> = SmallVec::new();
    for (urn, kind) in KINDS {
        for service in root.descendants().filter(|n| n.tag_name().name() == "service") {
            if found.len() < MAX_SERVICES
                && xml::text(service, "serviceType") == Some(urn)
                && let Some(control) = xml::text(service, "controlURL").and_then(|c| base.join(c, zone))
            {
                found.push(Service { kind, urn, control });
            }
        }
    }
    if found.is_empty() { Err(MapError::NotSupported) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(urn: &str, control: &str) -> String {
        format!("<service><serviceType>{urn}</serviceType><controlURL>{control}</controlURL></service>")
    }

    fn read(body: &str) -> Result<Vec<(Kind, String)>, MapError> {
        let location = Url::parse("http://192.168.1.1:5000/root.xml", 0).unwrap();
        let found = services(body.as_bytes(), &location, 0)?;
        Ok(found.into_iter().map(|s| (s.kind, format!("{}{}", s.control.host, s.control.path))).collect())
    }

    #[test]
    fn the_best_service_comes_first_and_none_leads_away() {
        let [any, plain, ppp, firewall] = KINDS.map(|(urn, _)| urn);
        let body = format!(
            "<root xmlns='urn:x'><URLBase>http://192.168.1.1:80/</URLBase><device><serviceList>{}{}{}{}{}</serviceList></device></root>",
            service(firewall, "/fw"),
            service(ppp, "http://192.168.1.9/steal"),
            service(plain, "one"),
            service(any, "/two"),
            service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
        );
        let expected = [
            (Kind::Wan { any: true }, "192.168.1.1:80/two".to_owned()),
            (Kind::Wan { any: false }, "192.168.1.1:80/one".to_owned()),
            (Kind::Firewall, "192.168.1.1:80/fw".to_owned()),
        ];
        assert_eq!(read(&body).unwrap(), expected);
        let many = format!("<root>{}</root>", service(plain, "/c").repeat(9));
        assert_eq!(read(&many).unwrap().len(), MAX_SERVICES);
        assert_eq!(read("<root/>"), Err(MapError::NotSupported));
        assert_eq!(read("not xml"), Err(MapError::BadAnswer));
        let elsewhere = body.replace("http://192.168.1.1:80/", "http://9.9.9.9/");
        assert_eq!(read(&elsewhere).unwrap()[0].1, "192.168.1.1:5000/two", "a base on another host is none");
    }
}
