//! A slow link: joins two TUN interfaces by a line with a delay and a rate in each direction. For tests and measurements on
//! kernels without netem; `delay.sh` beside this makes the addresses and the network namespace.
//!
//! usage: lazurite-delay INTERFACE INTERFACE ONE-WAY-MICROSECONDS MEGABITS-PER-SECOND MTU
//!
//! A packet leaves when those before it have (the rate), and arrives the delay later. What would wait for more than 100 ms
//! for the packets before it is dropped, as a switch does whose buffer is full. Needs the right to make interfaces
//! (CAP_NET_ADMIN). Says `ready` once both exist, and runs until it is killed; the interfaces end with it.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    link::run(std::env::args().skip(1).collect())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("lazurite-delay: this works on Linux only");
    std::process::exit(2);
}

#[cfg(target_os = "linux")]
mod link {
    use std::{
        error::Error,
        io,
        sync::{Arc, mpsc},
        time::{Duration, Instant},
    };

    use tun_rs::{DeviceBuilder, Layer, SyncDevice};

    /// Longest that a packet waits for others.
    const QUEUE_MAX: Duration = Duration::from_millis(100);

    /// Packets under way in one direction; more than fit into delay and queue at any rate that this can do.
    const PACKETS_MAX: usize = 65_536;

    type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

    #[derive(Clone, Copy)]
    struct Line {
        delay: Duration,
        megabits_per_second: u64,
        mtu: u16,
    }

    pub fn run(arguments: Vec<String>) -> Outcome<()> {
        let [near, far, delay, rate, mtu] = &arguments[..] else {
            return Err("usage: lazurite-delay INTERFACE INTERFACE ONE-WAY-MICROSECONDS MEGABITS-PER-SECOND MTU".into());
        };
        let line = Line {
            delay: Duration::from_micros(delay.parse()?),
            megabits_per_second: rate.parse::<u64>()?.max(1),
            mtu: mtu.parse()?,
        };
        let (near, far) = (interface(near, line.mtu)?, interface(far, line.mtu)?);
        println!("ready");
        std::thread::scope(|scope| {
            let there = scope.spawn(|| carry(&near, &far, line));
            let back = scope.spawn(|| carry(&far, &near, line));
            for end in [there, back] {
                match end.join() {
                    Ok(result) => result?,
                    Err(_) => return Err("a thread panicked".into()),
                }
            }
            Ok(())
        })
    }

    fn interface(name: &str, mtu: u16) -> io::Result<Arc<SyncDevice>> {
        let device = DeviceBuilder::new().name(name).layer(Layer::L3).mtu(mtu);
        Ok(Arc::new(device.build_sync()?))
    }

    /// Carries packets one way, until an interface ends.
    fn carry(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, line: Line) -> Outcome<()> {
        let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(PACKETS_MAX);
        let to = to.clone();
        let delivery = std::thread::spawn(move || -> Outcome<()> {
            // The kernel's own 50 us would be added to each delay.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
            for (due, packet) in receiver {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // A full interface drops it, as networks do.
                let _ = to.send(&packet);
            }
            Ok(())
        });
        let mut free = Instant::now();
        let mut buffer = vec![0; usize::from(line.mtu) + 64];
        loop {
            let len = from.recv(&mut buffer)?;
            let now = Instant::now();
            free = free.max(now);
            if free > now + QUEUE_MAX {
                continue;
            }
            // Bits over megabits per second are microseconds.
            free += Duration::from_nanos(len as u64 * 8 * 1000 / line.megabits_per_second);
            if sender
                .send((free + line.delay, buffer[..len].to_vec()))
                .is_err()
            {
                return match delivery.join() {
                    Ok(result) => result,
                    Err(_) => Err("a thread panicked".into()),
                };
            }
        }
    }
}
