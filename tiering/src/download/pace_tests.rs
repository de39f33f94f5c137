//! The window on simulated links, and its gate.

use super::*;

const MIB: u64 = 1 << 20;

/// A link that carries one request after another, each `latency` after it was sent at the earliest.
struct Link {
    began: Instant,
    window: Window,
    latency: f64,
    bandwidth: f64,
    /// In seconds since `began`.
    now: f64,
    free_at: f64,
    under_way: VecDeque<(f64, Sent)>,
    came: u64,
    /// How long requests waited in front of the link: together, at most, and how many there were.
    queued: f64,
    queued_most: f64,
    sent: u32,
}

impl Link {
    fn new(latency: f64, bandwidth: f64) -> Self {
        Link {
            began: Instant::now(),
            window: Window::default(),
            latency,
            bandwidth,
            now: 0.0,
            free_at: 0.0,
            under_way: VecDeque::new(),
            came: 0,
            queued: 0.0,
            queued_most: 0.0,
            sent: 0,
        }
    }

    /// The mean of the times for which requests waited.
    fn queue(&self) -> f64 {
        self.queued / f64::from(self.sent)
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_secs_f64(self.now)
    }

    /// Sends requests of `bytes` as the window lets it for so many seconds; the share of the link that they have.
    fn run(&mut self, seconds: f64, bytes: u64) -> f64 {
        self.run_files(seconds, &[bytes])
    }

    /// The same with files of which each takes requests of these `sizes`, in turn.
    fn run_files(&mut self, seconds: f64, sizes: &[u64]) -> f64 {
        let (end, before) = (self.now + seconds, self.came);
        (self.queued, self.queued_most, self.sent) = (0.0, 0.0, 0);
        let mut sizes = sizes.iter().copied().cycle().peekable();
        while self.now < end {
            while let Some(sent) = self
                .window
                .admit(self.instant(), sizes.peek().copied().unwrap())
            {
                let bytes = sizes.next().unwrap();
                let at_link = self.now + self.latency;
                let queued = (self.free_at - at_link).max(0.0);
                self.queued += queued;
                self.queued_most = self.queued_most.max(queued);
                self.sent += 1;
                self.free_at = self.free_at.max(at_link) + bytes as f64 / self.bandwidth;
                self.under_way.push_back((self.free_at, sent));
            }
            let (ends, sent) = self.under_way.pop_front().expect("nothing was admitted");
            self.now = ends;
            self.came += sent.bytes;
            self.window.arrived(self.instant(), sent, self.came);
            self.window.ended(sent);
        }
        (self.came - before) as f64 / (self.bandwidth * seconds)
    }
}

#[test]
fn the_link_is_full_and_little_waits_in_front_of_it() {
    for (latency_ms, megabytes) in [
        (5, 125),
        (1, 1250),
        (30, 1250),
        (100, 125),
        (20, 5),
        (0, 125),
    ] {
        for bytes in [MIB, MIB / 4] {
            let (latency, bandwidth) = (f64::from(latency_ms) / 1e3, f64::from(megabytes) * 1e6);
            let mut link = Link::new(latency, bandwidth);
            link.run(10.0, bytes);
            // Long enough for requests that are sent alone.
            let share = link.run(60.0, bytes);
            let what = format!("{latency_ms} ms, {megabytes} MB/s, {bytes} bytes: {share}");
            assert!(share > 0.9, "{what}");
            let most = 0.3 * latency + BESIDE * bytes as f64 / bandwidth;
            assert!(link.queue() < most, "{what}: {} > {most}", link.queue());
            assert!(
                link.queued_most < 2.0 * most,
                "{what}: {} > 2 * {most}",
                link.queued_most
            );
        }
    }
}

#[test]
fn the_short_last_requests_of_files_do_not_empty_the_link() {
    for latency in [0.005, 0.01, 0.03] {
        let mut link = Link::new(latency, 125e6);
        let sizes = [MIB, MIB, MIB, MIB, MIB, MIB / 5];
        link.run_files(10.0, &sizes);
        let share = link.run_files(60.0, &sizes);
        assert!(share > 0.95, "{latency}: {share}");
        let most = 0.3 * latency + BESIDE * MIB as f64 / 125e6;
        assert!(link.queue() < most, "{latency}: {}", link.queue());
    }
}

#[test]
fn a_link_that_changes_is_followed() {
    let mut link = Link::new(0.01, 125e6);
    link.run(10.0, MIB);
    link.bandwidth = 12.5e6;
    link.run(10.0, MIB);
    link.run(20.0, MIB);
    assert!(
        link.queue() < BESIDE * MIB as f64 / 12.5e6,
        "{}",
        link.queue()
    );
    link.bandwidth = 125e6;
    link.latency = 0.05;
    link.run(25.0, MIB);
    let share = link.run(20.0, MIB);
    assert!(share > 0.9, "{share}");
    assert!(
        link.queue() < 0.015 + BESIDE * MIB as f64 / 125e6,
        "{}",
        link.queue()
    );
}

#[test]
fn bytes_that_reads_take_do_not_make_the_link_slow() {
    let mut window = Window::default();
    let began = Instant::now();
    let mut came = 0;
    for ms in (10..3000).step_by(10) {
        let now = began + Duration::from_millis(ms);
        let sent = window.admit(now, MIB / 4).expect("the only one");
        came += MIB / 4 + MIB;
        window.arrived(now, sent, came);
        window.ended(sent);
    }
    let bandwidth = window.bandwidth().unwrap();
    assert!(bandwidth > 100e6, "{bandwidth}");
}

#[tokio::test]
async fn a_pause_holds_requests_back_and_an_end_lets_the_next_one_go() {
    let pace = Arc::new(Pace::default());
    pace.set_paused(true);
    let admit = |pace: &Arc<Pace>| {
        let pace = pace.clone();
        tokio::spawn(async move { pace.admit(MIB).await })
    };
    let waiting: Vec<_> = (0..4).map(|_| admit(&pace)).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    pace.set_paused(false);
    let mut waiting = waiting.into_iter();
    let first = waiting.next().unwrap().await.unwrap();
    // One more, to begin with; then two for each that ends.
    let _second = waiting.next().unwrap().await.unwrap();
    let third = waiting.next().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!third.is_finished());
    drop(first);
    let _third = third.await.unwrap();
    waiting.next().unwrap().await.unwrap();
}
