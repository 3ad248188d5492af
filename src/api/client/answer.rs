//! From the events of a stream to whole images and previews.

use prost::bytes::{Bytes, BytesMut};

use super::convert::breach;
use super::v1;
use super::v1::generate_response::Event;
use crate::error::Result;

/// Largest encoded image that is put together, in bytes: 4096 × 4096 × 4 channels of float32.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// What has come of an answer after `accepted`.
#[derive(Debug, Default)]
pub(super) struct Answer {
    open: Option<Open>,
    summary: Option<v1::Summary>,
}

/// Something that a server has made, whole.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "images are the rule and previews the exception")]
pub enum Arrival {
    /// What an unfinished image would be, finished now.
    Preview(v1::Preview),
    /// A finished image.
    Image(v1::Image),
}

/// What has arrived in part.
#[derive(Debug)]
struct Open {
    arrival: Arrival,
    data: BytesMut,
}

impl Arrival {
    fn name(&self) -> String {
        match self {
            Self::Preview(preview) => format!("a preview of image {}", preview.index),
            Self::Image(image) => format!("image {}", image.index),
        }
    }

    fn index(&self) -> u32 {
        match self {
            Self::Preview(preview) => preview.index,
            Self::Image(image) => image.index,
        }
    }

    fn total_bytes(&self) -> u64 {
        match self {
            Self::Preview(preview) => preview.total_bytes,
            Self::Image(image) => image.total_bytes,
        }
    }

    fn data(&mut self) -> &mut Bytes {
        match self {
            Self::Preview(preview) => &mut preview.data,
            Self::Image(image) => &mut image.data,
        }
    }
}

impl Answer {
    /// Takes the next event; gives what it completes.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the event cannot come here.
    pub(super) fn take(&mut self, event: Event) -> Result<Option<Arrival>> {
        match (event, self.open.take()) {
            (Event::Image(image), None) => self.begin(Arrival::Image(image)),
            (Event::Preview(preview), None) => self.begin(Arrival::Preview(preview)),
            (Event::ImageChunk(chunk), Some(open)) => self.chunk(&chunk, open),
            (Event::Summary(summary), None) => {
                self.summary = Some(summary);
                Ok(None)
            }
            (Event::Accepted(_), _) => Err(breach("`accepted` came twice")),
            (Event::ImageChunk(_), None) => Err(breach("`image_chunk` came without an open image")),
            (_, Some(open)) => Err(breach(&format!("{} was never completed", open.arrival.name()))),
        }
    }

    /// The closing event, once it has come.
    pub(super) fn summary(&self) -> Option<&v1::Summary> {
        self.summary.as_ref()
    }

    fn begin(&mut self, mut arrival: Arrival) -> Result<Option<Arrival>> {
        let (has, total) = (arrival.data().len() as u64, arrival.total_bytes());
        if has > total || total > MAX_IMAGE_BYTES {
            return Err(breach(&format!("{} has {has} of {total} bytes", arrival.name())));
        }
        if has == total {
            return Ok(Some(arrival));
        }
        let data = BytesMut::from(std::mem::take(arrival.data()));
        self.open = Some(Open { arrival, data });
        Ok(None)
    }

    fn chunk(&mut self, chunk: &v1::ImageChunk, Open { mut arrival, mut data }: Open) -> Result<Option<Arrival>> {
        let fits = chunk.index == arrival.index()
            && chunk.offset == data.len() as u64
            && !chunk.data.is_empty()
            && (data.len() + chunk.data.len()) as u64 <= arrival.total_bytes();
        if !fits {
            let (index, offset) = (chunk.index, chunk.offset);
            return Err(breach(&format!("a chunk of image {index} at {offset} does not follow what came before")));
        }
        data.extend_from_slice(&chunk.data);
        if (data.len() as u64) < arrival.total_bytes() {
            self.open = Some(Open { arrival, data });
            return Ok(None);
        }
        *arrival.data() = Bytes::from(data);
        Ok(Some(arrival))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(index: u32, total_bytes: u64, data: &'static [u8]) -> Event {
        Event::Image(v1::Image { index, total_bytes, data: Bytes::from_static(data), ..Default::default() })
    }

    fn preview(index: u32, total_bytes: u64, data: &'static [u8]) -> Event {
        Event::Preview(v1::Preview { index, total_bytes, data: Bytes::from_static(data), ..Default::default() })
    }

    fn chunk(index: u32, offset: u64, data: &'static [u8]) -> Event {
        Event::ImageChunk(v1::ImageChunk { index, offset, data: Bytes::from_static(data) })
    }

    fn summary() -> Event {
        Event::Summary(v1::Summary::default())
    }

    #[test]
    fn pieces_become_whole_images() {
        let mut answer = Answer::default();
        let shown = [preview(0, 3, b"x"), chunk(0, 1, b"yz")];
        let events = [head(1, 2, b"ab"), head(0, 5, b"ab"), chunk(0, 2, b"c"), chunk(0, 3, b"de"), summary()];
        let whole: Vec<_> = shown.into_iter().chain(events).filter_map(|event| answer.take(event).unwrap()).collect();
        let seen: Vec<_> = whole.into_iter().map(|mut it| (it.name(), it.data().to_vec())).collect();
        let want = [("a preview of image 0", "xyz"), ("image 1", "ab"), ("image 0", "abcde")];
        assert_eq!(seen, want.map(|(name, data)| (name.to_owned(), data.as_bytes().to_vec())));
        assert!(answer.summary().is_some());
    }

    #[test]
    fn what_cannot_follow_is_refused() {
        let open = || head(0, 5, b"ab");
        for events in [
            vec![chunk(0, 0, b"a")],
            vec![Event::Accepted(v1::Accepted::default())],
            vec![head(0, 1, b"ab")],
            vec![head(0, u64::MAX, b"ab")],
            vec![open(), summary()],
            vec![open(), head(1, 1, b"a")],
            vec![open(), preview(0, 1, b"a")],
            vec![preview(0, 2, b"a"), chunk(1, 1, b"a")],
            vec![open(), chunk(1, 2, b"c")],
            vec![open(), chunk(0, 3, b"c")],
            vec![open(), chunk(0, 2, b"")],
            vec![open(), chunk(0, 2, b"cdef")],
        ] {
            let mut answer = Answer::default();
            let told = format!("{events:?}");
            let results: Vec<_> = events.into_iter().map(|event| answer.take(event)).collect();
            assert!(results.last().is_some_and(Result::is_err), "{told}");
        }
    }
}
