//! SOAP calls of WANIPConnection:1 and :2, WANPPPConnection:1 and WANIPv6FirewallControl:1, and their answers.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;

use super::description::Service;
use super::{http, xml};
use crate::portmap::Protocol;

/// Name of a mapping in the router's list.
const DESCRIPTION: &str = "p2pd";
/// Most values of one answer.
const MAX_VALUES: usize = 32;

/// A call of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    ExternalAddress,
    /// Asks for the owner of an external port.
    Specific {
        protocol: Protocol,
        external: u16,
    },
    /// Asks for the entry with this place in the table.
    Generic {
        index: u16,
    },
    /// `any`: the device may choose another external port. A lease of 0 s is one without end.
    Add {
        any: bool,
        protocol: Protocol,
        external: u16,
        client: IpAddr,
        internal: u16,
        lease: u32,
    },
    Delete {
        protocol: Protocol,
        external: u16,
    },
    FirewallStatus,
    AddPinhole {
        protocol: Protocol,
        client: IpAddr,
        internal: u16,
        lease: u32,
    },
    UpdatePinhole {
        id: u16,
        lease: u32,
    },
    DeletePinhole {
        id: u16,
    },
}

/// Reason that a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SoapError {
    /// The device's error number.
    Fault(u16),
    Malformed,
}

/// The values of an answer, by name.
pub(super) type Values = BTreeMap<String, String>;

impl Call {
    fn action(self) -> &'static str {
        match self {
            Call::ExternalAddress => "GetExternalIPAddress",
            Call::Specific { .. } => "GetSpecificPortMappingEntry",
            Call::Generic { .. } => "GetGenericPortMappingEntry",
            Call::Add { any: false, .. } => "AddPortMapping",
            Call::Add { any: true, .. } => "AddAnyPortMapping",
            Call::Delete { .. } => "DeletePortMapping",
            Call::FirewallStatus => "GetFirewallStatus",
            Call::AddPinhole { .. } => "AddPinhole",
            Call::UpdatePinhole { .. } => "UpdatePinhole",
            Call::DeletePinhole { .. } => "DeletePinhole",
        }
    }

    /// Returns the whole HTTP request.
    pub(super) fn request(self, service: &Service) -> Bytes {
        let (action, urn) = (self.action(), service.urn);
        let mut body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{urn}\">"
        );
        for (name, value) in self.arguments() {
            // A String takes everything, and no value has a character that XML would want escaped.
            let _ = write!(body, "<{name}>{value}</{name}>");
        }
        let _ = write!(body, "</u:{action}></s:Body></s:Envelope>\r\n");
        http::post(&service.control, &format!("{urn}#{action}"), &body)
    }

    fn arguments(self) -> Vec<(&'static str, String)> {
        let number = |protocol| if protocol == Protocol::Tcp { "6" } else { "17" }.to_owned();
        match self {
            Call::ExternalAddress | Call::FirewallStatus => vec![],
            Call::Specific { protocol, external } | Call::Delete { protocol, external } => vec![
                ("NewRemoteHost", String::new()),
                ("NewExternalPort", external.to_string()),
                ("NewProtocol", protocol.to_string()),
            ],
            Call::Generic { index } => vec![("NewPortMappingIndex", index.to_string())],
            Call::Add { protocol, external, client, internal, lease, .. } => vec![
                ("NewRemoteHost", String::new()),
                ("NewExternalPort", external.to_string()),
                ("NewProtocol", protocol.to_string()),
                ("NewInternalPort", internal.to_string()),
                ("NewInternalClient", client.to_string()),
                ("NewEnabled", "1".into()),
                ("NewPortMappingDescription", DESCRIPTION.into()),
                ("NewLeaseDuration", lease.to_string()),
            ],
            Call::AddPinhole { protocol, client, internal, lease } => vec![
                ("RemoteHost", String::new()),
                ("RemotePort", "0".into()),
                ("InternalClient", client.to_string()),
                ("InternalPort", internal.to_string()),
                ("Protocol", number(protocol)),
                ("LeaseTime", lease.to_string()),
            ],
            Call::UpdatePinhole { id, lease } => {
                vec![("UniqueID", id.to_string()), ("NewLeaseTime", lease.to_string())]
            }
            Call::DeletePinhole { id } => vec![("UniqueID", id.to_string())],
        }
    }

    /// Reads the answer.
    pub(super) fn answer(self, answer: &http::Answer) -> Result<Values, SoapError> {
        let document = match xml::parse(&answer.body) {
            Ok(document) => document,
            // A server without this service, or without words for its failure.
            Err(_) if answer.code >= 400 => return Err(SoapError::Fault(answer.code)),
            Err(_) => return Err(SoapError::Malformed),
        };
        let root = document.root_element();
        if answer.code != 200 || root.descendants().any(|n| n.tag_name().name() == "Fault") {
            let code = xml::text(root, "errorCode").and_then(|code| code.parse().ok());
            return Err(SoapError::Fault(code.unwrap_or(answer.code)));
        }
        let response = format!("{}Response", self.action());
        let named = root.descendants().find(|n| n.tag_name().name() == response);
        let values = named.ok_or(SoapError::Malformed)?.children().filter(|n| n.is_element());
        let value = |n: roxmltree::Node<'_, '_>| {
            (n.tag_name().name().to_owned(), n.text().unwrap_or_default().trim().to_owned())
        };
        Ok(values.take(MAX_VALUES).map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::description::Kind;
    use super::super::http::{Answer, Url};
    use super::*;

    #[test]
    fn a_call_has_the_bytes_of_the_standard() {
        let service = Service {
            kind: Kind::Wan { any: false },
            urn: "urn:schemas-upnp-org:service:WANIPConnection:1",
            control: Url::parse("http://192.168.1.1:5000/ctl", 0).unwrap(),
        };
        let client = "192.168.1.5".parse().unwrap();
        let call =
            Call::Add { any: false, protocol: Protocol::Udp, external: 1, client, internal: 2, lease: 3 };
        let request = call.request(&service);
        let text = str::from_utf8(&request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(
            head.starts_with("POST /ctl HTTP/1.1\r\nHost: 192.168.1.1:5000\r\n") && head.contains(&length)
        );
        let action = "SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\"\r\n";
        assert!(head.contains(action), "{head}");
        let arguments = "<NewRemoteHost></NewRemoteHost><NewExternalPort>1</NewExternalPort>\
            <NewProtocol>UDP</NewProtocol><NewInternalPort>2</NewInternalPort>\
            <NewInternalClient>192.168.1.5</NewInternalClient><NewEnabled>1</NewEnabled>\
            <NewPortMappingDescription>p2pd</NewPortMappingDescription><NewLeaseDuration>3</NewLeaseDuration>";
        assert!(body.contains(arguments), "{body}");
        xml::parse(body.as_bytes()).unwrap();
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        let read = |code, body: &str| Call::ExternalAddress.answer(&Answer { code, body: body.into() });
        let ok = "<s:Envelope xmlns:s='x'><s:Body><u:GetExternalIPAddressResponse xmlns:u='y'>\
                  <NewExternalIPAddress>9.9.9.9</NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body></s:Envelope>";
        assert_eq!(read(200, ok).unwrap()["NewExternalIPAddress"], "9.9.9.9");
        let fault =
            |code: &str| format!("<e><Fault><detail><errorCode>{code}</errorCode></detail></Fault></e>");
        for (code, body, error) in [
            (500, fault("718"), SoapError::Fault(718)),
            (200, fault("725"), SoapError::Fault(725)),
            (500, fault("x"), SoapError::Fault(500)),
            (404, "gone".to_owned(), SoapError::Fault(404)),
            (200, "<e/>".to_owned(), SoapError::Malformed),
            (200, "<e".to_owned(), SoapError::Malformed),
            (200, ok.replace("GetExternal", "GetOther"), SoapError::Malformed),
        ] {
            assert_eq!(read(code, &body), Err(error), "{body}");
        }
    }
}
