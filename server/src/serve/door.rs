//! The door of the service's own port: it admits callers by a call's headers and the client's
//! certificate alone, before a byte of the body is read.

use std::sync::Arc;

use http::request::Parts;
use tillwatch_proto::PURCHASE_SERVICE;

use super::attempts::Attempts;
use crate::{
    clock::Clock,
    grpc::{self, error::Reason},
    identity::Directory,
    limits::Limit,
    listener::{Admitted, Cause, CertificateNames, Guest, Origins, Refused, Rules, Trust},
    purchase::CallerName,
};

/// The longest message of a call that needs no token, in bytes.
pub(super) const OPEN_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The most that a stream of reflection may ask in all, in bytes.
const REFLECTION_BYTES_MAX: usize = 256 * 1024;
/// The services that need no token.
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// The name in the figures of methods that are not served.
const OTHER: &str = "other";

/// The rules of the service's own port.
pub(super) fn rules(
    callers: Directory,
    clock: Clock,
    attempts: Attempts,
    connections: u32,
    origins: Origins,
) -> Rules {
    let trust = match callers.has_anonymous() {
        true => Trust::Anyone,
        false => Trust::Tokens,
    };
    Rules {
        trust,
        origins,
        admit: {
            let (clock, attempts) = (clock.clone(), attempts.clone());
            Arc::new(move |head| admit(&callers, &clock, &attempts, head))
        },
        refuse: Arc::new(move |cause, call| match cause {
            Cause::Limit(limit) => {
                // A request that came too late was not refused.
                if call.guest == Guest::Caller && limit != Limit::RequestTime {
                    let caller = CallerName::new(&call.caller);
                    let (word, _) = Reason::LimitExceeded.row();
                    attempts.audit().refused(Some(&caller), word);
                }
                grpc::beyond(limit)
            }
            Cause::Ending => grpc::ending(&clock),
        }),
        connections,
    }
}

fn admit(
    callers: &Directory,
    clock: &Clock,
    attempts: &Attempts,
    head: &mut Parts,
) -> Result<Admitted, Box<Refused>> {
    let path = head.uri.path().strip_prefix('/').unwrap_or_default();
    let (service, method) = path.split_once('/').unwrap_or_default();
    let open = |guest, method, request_bytes| Admitted {
        guest,
        caller: Arc::from(""),
        method,
        request_bytes,
        answer_bytes: 0,
    };
    if service == HEALTH {
        let (guest, method) = match method {
            "Watch" => (Guest::Watch, "health.Watch"),
            "List" => (Guest::Check, "health.List"),
            _ => (Guest::Check, "health.Check"),
        };
        return Ok(open(guest, method, OPEN_MESSAGE_BYTES_MAX));
    }
    if REFLECTION.contains(&service) {
        return Ok(open(Guest::Reflection, "reflection", REFLECTION_BYTES_MAX));
    }
    if service != PURCHASE_SERVICE {
        return Ok(open(Guest::Other, OTHER, OPEN_MESSAGE_BYTES_MAX));
    }
    let method = grpc::METHODS.into_iter().find(|known| *known == method);
    let method = method.unwrap_or(OTHER);
    let names = head.extensions.get::<CertificateNames>().cloned();
    let names = names.map(|CertificateNames(names)| names);
    let names = names.as_deref().unwrap_or_default();
    let caller = grpc::identify(callers, &head.headers, names, clock).map_err(|error| {
        attempts.refused(error);
        let status = grpc::stranger(error);
        Box::new(Refused { method, status })
    })?;
    let name = Arc::from(caller.name().as_str());
    head.extensions.insert(caller);
    Ok(Admitted {
        guest: Guest::Caller,
        caller: name,
        method,
        request_bytes: grpc::REQUEST_BYTES_MAX,
        answer_bytes: match method {
            "ListPurchases" => grpc::ANSWER_BYTES_MAX,
            _ => 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use tillwatch_proto::FILE_DESCRIPTOR_SET;

    use super::*;
    use crate::{
        identity::{Caller, CallerLimits, Callers, Grant},
        purchase::CallerName,
    };

    fn callers() -> Directory {
        let grant = Grant {
            name: CallerName::new("shop"),
            scopes: BTreeSet::new(),
            accounts: None,
            limits: CallerLimits::default(),
        };
        // The SHA-256 of "a".
        let token = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        let token = <[u8; 32]>::try_from(hex::decode(token).unwrap()).unwrap();
        Directory::new(Callers::default().with(Caller::new(grant), &[token], false))
    }

    fn admitted(path: &str, token: Option<&str>) -> Result<Admitted, Box<Refused>> {
        let mut request = http::Request::post(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (clock, attempts) = (crate::testing::clock(), Attempts::default());
        let mut head = request.body(()).unwrap().into_parts().0;
        admit(&callers(), &clock, &attempts, &mut head)
    }

    #[test]
    fn every_method_of_the_service_is_named_in_the_figures() {
        let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let methods =
            services.flat_map(|service| service.method.iter().map(|method| method.name()));
        let known: BTreeSet<&str> = methods.collect();
        for method in grpc::METHODS {
            assert!(known.contains(method), "{method}");
        }
        assert!(grpc::METHODS.len() <= known.len());
    }

    #[test]
    fn who_shows_no_token_is_refused_by_headers_and_health_and_reflection_need_none() {
        for method in grpc::METHODS.into_iter().chain(["Unheard"]) {
            let path = format!("/{PURCHASE_SERVICE}/{method}");
            for token in [None, Some("b")] {
                let refused = admitted(&path, token).unwrap_err();
                assert_eq!(
                    refused.status.code(),
                    tonic::Code::Unauthenticated,
                    "{method}"
                );
            }
            let admitted = admitted(&path, Some("a")).unwrap();
            assert_eq!((admitted.guest, &*admitted.caller), (Guest::Caller, "shop"));
            assert_eq!(admitted.answer_bytes > 0, method == "ListPurchases");
        }
        let open = [
            ("/grpc.health.v1.Health/Check", Guest::Check),
            ("/grpc.health.v1.Health/List", Guest::Check),
            ("/grpc.health.v1.Health/Watch", Guest::Watch),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Guest::Reflection,
            ),
            (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                Guest::Reflection,
            ),
            ("/some.Other/Method", Guest::Other),
            ("/", Guest::Other),
            ("/readyz", Guest::Other),
        ];
        for (path, guest) in open {
            assert_eq!(admitted(path, None).unwrap().guest, guest, "{path}");
        }
    }
}
