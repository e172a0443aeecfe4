"""The recurrent layer of TRBA-like recognisers: a bidirectional LSTM and a linear map back to one size."""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class BidirectionalLSTM(nn.Module):
    """One bidirectional LSTM layer followed by a linear map of its two directions."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        """Build the layer from its sizes."""
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, bidirectional=True, batch_first=True)
        self.projection = nn.Linear(2 * hidden_size, output_size)

    def forward(self, sequence: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """Run over the frames.

        Args:
            sequence: (B, T, C).
            frame_mask: (B, T) True for real frames, which come first; None when all are real. The backward
                direction starts at each word's own last frame, so padding never reaches a real frame.

        Returns:
            (B, T, output_size); zero at padded frames.
        """
        if frame_mask is None:
            return self.projection(self.lstm(sequence)[0])
        lengths = frame_mask.sum(1).cpu()
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=sequence.shape[1]
        )
        return self.projection(hidden) * frame_mask[..., None]


def stack_bilstm(input_size: int, hidden_size: int, output_size: int, num_layers: int) -> nn.ModuleList:
    """Stack `num_layers` (0 or more) layers of `hidden_size`; the last one maps to `output_size`."""
    sizes = ([hidden_size] * (num_layers - 1) + [output_size]) if num_layers else []
    inputs = [input_size, *sizes][:num_layers]
    return nn.ModuleList(
        BidirectionalLSTM(before, hidden_size, after) for before, after in zip(inputs, sizes, strict=True)
    )
