//! The addresses that a request may go to. Pure, but for the one name look-up.
//!
//! Base URLs are configuration, but the addresses behind their names are not. Each address is checked
//! after it is resolved, so that nobody can point a name at the inside of the network later.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};

use tokio::sync::Semaphore;

/// The most names that are looked up at once for one account. Ours: an answer takes milliseconds.
const LOOK_UPS_MAX: usize = 8;

/// IPv4 networks that are not the public internet: IANA's special-purpose registry of 2026-11,
/// multicast and the reserved last sixteenth. Pairs of network and prefix length.
const SPECIAL_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// IPv6 networks inside global unicast that are not the public internet: protocol assignments (with
/// Teredo, benchmarking and ORCHID), both documentation ranges, AS112.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// The network of IPv6's global unicast. Everything outside is loopback, unspecified, unique local,
/// link local, site local, multicast, IPv4-compatible, local NAT64 or unassigned.
const GLOBAL_UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// The well-known prefix by which an IPv6-only network reaches IPv4 (RFC 6052).
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// 6to4 (RFC 3056): the IPv4 address follows the first 16 bits.
const SIX_TO_FOUR: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// True if a request may go to this address: to the public internet always, elsewhere only if private
/// networks are allowed. An IPv4 address inside an IPv6 address is judged as itself.
pub fn allowed(address: IpAddr, allow_private: bool) -> bool {
    allow_private
        || match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        }
}

/// Looks names up for one account, a few at once. The machine's resolver holds a thread for as long as
/// it likes, even if nobody waits for it any more, and the journal works on such threads too. So an
/// account whose names cannot be resolved must not take all threads.
#[derive(Debug, Clone)]
pub struct LookUps(Arc<Semaphore>);

impl Default for LookUps {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOK_UPS_MAX)))
    }
}

impl LookUps {
    /// The addresses of a host, as the machine's resolver gives them.
    ///
    /// # Errors
    /// The look-up's own.
    pub async fn look_up(self, host: String) -> io::Result<Vec<SocketAddr>> {
        self.with(move || Ok((host.as_str(), 0).to_socket_addrs()?.collect()))
            .await
    }

    async fn with(
        self,
        resolve: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let permit = (self.0.acquire_owned().await).map_err(io::Error::other)?;
        let resolving = tokio::task::spawn_blocking(move || {
            let found = resolve();
            drop(permit);
            found
        });
        resolving.await?
    }
}

/// The addresses that a request may go to, out of those that a look-up found.
///
/// # Errors
/// `PermissionDenied` if all are refused.
pub fn usable(found: Vec<SocketAddr>, allow_private: bool) -> io::Result<Vec<SocketAddr>> {
    let found_some = !found.is_empty();
    let usable: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| allowed(address.ip(), allow_private))
        .collect();
    if usable.is_empty() && found_some {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(usable)
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_in = |(network, prefix): &(Ipv4Addr, u32)| {
        let differing = address.to_bits() ^ network.to_bits();
        differing.leading_zeros() >= *prefix
    };
    !SPECIAL_V4.iter().any(is_in)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let is_in = |(network, prefix): &(Ipv6Addr, u32)| {
        let differing = address.to_bits() ^ network.to_bits();
        differing.leading_zeros() >= *prefix
    };
    let [_, first, second, .., sixth, seventh] = address.segments();
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    if is_in(&NAT64) {
        return is_public_v4(v4_of(sixth, seventh));
    }
    if is_in(&SIX_TO_FOUR) {
        return is_public_v4(v4_of(first, second));
    }
    is_in(&GLOBAL_UNICAST) && !SPECIAL_V6.iter().any(is_in)
}

fn v4_of(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_allowed_unless_private_networks_are() {
        let public = [
            "8.8.8.8",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ];
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "::8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ];
        let check = |text: &str, expected: bool| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(allowed(address, false), expected, "{text}");
            assert!(allowed(address, true), "{text}");
        };
        public.iter().for_each(|text| check(text, true));
        private.iter().for_each(|text| check(text, false));
    }

    #[tokio::test]
    async fn names_that_cannot_be_resolved_take_few_threads_however_many_have_given_up() {
        use std::{
            sync::{
                Mutex,
                atomic::{AtomicUsize, Ordering},
                mpsc,
            },
            time::Duration,
        };

        let look_ups = LookUps::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        for _ in 0..100 {
            let (begun, hangs) = (Arc::clone(&begun), Arc::clone(&hangs));
            let looked_up = look_ups.clone().with(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                // The wait ends once nobody is left to release it.
                assert!(hangs.lock().unwrap().recv().is_err());
                Ok(Vec::new())
            });
            let waited = tokio::time::timeout(Duration::from_millis(5), looked_up).await;
            assert!(waited.is_err(), "nobody waits for it any more");
        }
        assert_eq!(begun.load(Ordering::SeqCst), LOOK_UPS_MAX);
        drop(release);
        let found = look_ups.with(|| Ok(vec![([127, 0, 0, 1], 0).into()])).await;
        assert_eq!(found.unwrap().len(), 1, "and works again afterwards");
    }

    #[tokio::test]
    async fn a_name_that_stands_for_this_machine_has_no_usable_address() {
        let look_ups = LookUps::default();
        let found = look_ups.look_up("localhost".to_owned()).await.unwrap();
        let refused = usable(found.clone(), false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let found = usable(found, true).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
    }
}
