//! The place in which answers are read: small ones at once, large ones beside the event loop.

use tokio::sync::Semaphore;

use super::Response;

/// The longest body that is read at once, in bytes: at worst about 5 ms of a processor. This is scaled
/// from 79 ms, measured for 1,040,044 bytes of numbers that were read twice. An answer about one
/// purchase is far shorter.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;
/// Large answers that are read at the same time. The journal works on such threads too, and a
/// provider whose answers are all large must not take every processor.
const LARGE_AT_ONCE: usize = 2;

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// Reads an answer. A large one is read on a thread of its own, so that nobody else waits for it.
///
/// # Panics
/// It panics if `read` does.
///
/// # Cancel safety
/// Dropping the future gives the answer up; a reading that has begun goes on to its end.
pub async fn read<T, R>(answer: Response, read: R) -> T
where
    T: Send + 'static,
    R: FnOnce(&Response) -> T + Send + 'static,
{
    if answer.body.len() <= AT_ONCE_BYTES_MAX {
        return read(&answer);
    }
    let permit = LARGE.acquire().await;
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read(&answer)
    });
    match reading.await {
        Ok(said) => said,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it the caller.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;

    fn answer(bytes: usize) -> Response {
        Response {
            status: 200,
            headers: ::http::HeaderMap::new(),
            body: vec![b' '; bytes].into(),
        }
    }

    #[tokio::test]
    async fn a_large_answer_is_read_beside_the_event_loop_and_a_small_one_on_it() {
        let here = thread::current().id();
        let at = async |bytes| read(answer(bytes), |_| thread::current().id()).await;
        assert_eq!(at(AT_ONCE_BYTES_MAX).await, here);
        assert_ne!(at(AT_ONCE_BYTES_MAX + 1).await, here);
    }

    #[tokio::test]
    async fn few_large_answers_are_read_at_the_same_time() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let readings = (0..16).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            read(answer(AT_ONCE_BYTES_MAX + 1), move |answer| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let sum: usize = answer.body.iter().map(|byte| usize::from(*byte)).sum();
                now.fetch_sub(1, Ordering::SeqCst);
                sum
            })
        });
        let sums = futures_util::future::join_all(readings).await;
        assert_eq!(sums, [(AT_ONCE_BYTES_MAX + 1) * usize::from(b' '); 16]);
        assert!((1..=LARGE_AT_ONCE).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_panic_of_the_reading_is_its_callers() {
        let panics = |_: &Response| -> () { panic!("scripted") };
        let task = tokio::spawn(read(answer(AT_ONCE_BYTES_MAX + 1), panics));
        assert!(task.await.unwrap_err().is_panic());
    }
}
