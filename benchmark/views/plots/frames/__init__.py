"""Pictures of data frames on the caller's own axes: the functions, how frames are read, and the axes."""
