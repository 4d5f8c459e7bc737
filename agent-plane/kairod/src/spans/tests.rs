//! The ring, its bounds, and what is passed on; over real connections in `tests/traces.rs`.

use super::*;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn meta(traceparent: &str) -> Meta {
    Meta {
        traceparent: Some(traceparent.into()),
        ..Meta::default()
    }
}

#[test]
fn a_child_is_made_in_sampled_traces_only() {
    let tracer = Rc::new(Tracer::default());
    assert!(
        tracer
            .child(&Meta::default(), || "x", Kind::Client)
            .is_none()
    );
    let unsampled = SAMPLED.replace("-01", "-00");
    assert!(
        tracer
            .child(&meta(&unsampled), || "x", Kind::Client)
            .is_none()
    );
    let open = tracer.child(&meta(SAMPLED), || "x", Kind::Client).unwrap();
    let child = Context::parse(&open.traceparent()).unwrap();
    open.end::<()>(&Ok(()));
    let kept = tracer.kept.borrow();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].span_id, child.span_id);
    assert_eq!(kept[0].parent.unwrap().to_string(), "b7ad6b7169203331");
    assert_eq!(kept[0].outcome, "ok");
}

#[test]
fn a_span_that_nobody_ends_was_called_off() {
    let tracer = Rc::new(Tracer::default());
    drop(tracer.child(&meta(SAMPLED), || "x", Kind::Client));
    assert_eq!(tracer.kept.borrow()[0].outcome, "E_CANCELED");
}

#[test]
fn what_the_real_time_plane_did_has_its_own_times() {
    let tracer = Rc::new(Tracer::default());
    let now = MonoNs::now();
    let open = tracer.child(&meta(SAMPLED), || "rt.command", Kind::Internal);
    let wall = open.as_ref().unwrap().span.as_ref().unwrap().start_unix_ns;
    let from = MonoNs(now.0 - 3_000_000);
    open.unwrap()
        .end_in_rt(from, MonoNs(from.0 + 2_000_000), "ok");
    let kept = tracer.kept.borrow();
    assert_eq!(
        (kept[0].process, kept[0].duration_ns),
        ("kairo-rt", 2_000_000)
    );
    assert!(wall - kept[0].start_unix_ns >= 3_000_000);
}

#[test]
fn memory_is_bounded_and_what_was_lost_is_told() {
    let tracer = Rc::new(Tracer::default());
    for _ in 0..KEPT_SPANS + 10 {
        let mut open = tracer.child(&meta(SAMPLED), || "x", Kind::Client).unwrap();
        open.put("long", "é".repeat(1000).as_str());
        open.end::<()>(&Ok(()));
    }
    assert!(tracer.kept_bytes.get() <= KEPT_BYTES);
    assert!(tracer.kept.borrow().len() <= KEPT_SPANS);
    let first = serde_json::to_value(tracer.page(0, None, 100)).unwrap();
    let lost = KEPT_SPANS as u64 + 10 - tracer.kept.borrow().len() as u64;
    assert_eq!(first["lost"], lost);
    assert_eq!(first["next"], lost + 100);
    assert_eq!(first["more"], true);
    let last = serde_json::to_value(tracer.page(u64::MAX, None, 100)).unwrap();
    assert_eq!((&last["more"], &last["lost"]), (&false.into(), &0.into()));
    assert_eq!(last["next"], KEPT_SPANS as u64 + 10);
}

#[test]
fn a_page_of_one_trace_passes_over_the_others() {
    let tracer = Rc::new(Tracer::default());
    let other = SAMPLED.replace("0af7", "1af7");
    for traceparent in [SAMPLED, &other, SAMPLED] {
        drop(tracer.child(&meta(traceparent), || "x", Kind::Client));
    }
    let trace = Context::parse(&other).unwrap().trace_id;
    let page = serde_json::to_value(tracer.page(0, Some(trace), 10)).unwrap();
    assert_eq!(page["spans"].as_array().unwrap().len(), 1);
    assert_eq!((&page["next"], &page["more"]), (&3.into(), &false.into()));
}

#[test]
fn the_ratio_is_kept() {
    let tracer = Tracer::default();
    let lucky = |ratio: f64| {
        tracer.set_ratio(ratio);
        (0..100_000).filter(|_| tracer.is_lucky()).count()
    };
    assert_eq!(lucky(0.0), 0);
    assert_eq!(lucky(1.0), 100_000);
    let tenth = lucky(0.1);
    assert!((8_000..12_000).contains(&tenth), "{tenth}");
}

#[test]
fn a_user_that_samples_everything_is_recorded_so_often_and_no_more() {
    let mut allowances = Allowances::default();
    let start = Instant::now();
    let taken = (0..1000).filter(|_| allowances.take(7, start)).count();
    assert_eq!(taken, 200);
    assert!(allowances.take(8, start));
    assert!(allowances.take(7, start + std::time::Duration::from_millis(6)));
}

#[test]
fn texts_of_others_are_bounded_and_without_secrets() {
    assert_eq!(short("a\nb sh_vault_x"), "a\\nb [redacted]");
    assert!(short(&"é".repeat(1000)).len() <= MAX_TEXT_BYTES);
}
