//! What is in flight, under numbers that requests can carry.

/// A table whose free places are used again; its indices are the tokens of requests.
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> usize {
        if let Some(index) = self.free.pop() {
            self.places[index] = Some(value);
            return index;
        }
        self.places.push(Some(value));
        self.places.len() - 1
    }

    pub(super) fn remove(&mut self, index: usize) -> T {
        self.free.push(index);
        self.places[index]
            .take()
            .expect("a token is given back once")
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut T {
        self.places[index]
            .as_mut()
            .expect("a token is valid until it is given back")
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
