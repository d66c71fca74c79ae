/** Shapes of the API's answers, as far as the application uses them (see /api/v1/openapi.json). */

export interface Page<T> {
  data: T[];
  pagination: { cursor_after: string | null; has_more: boolean; limit: number };
}
export interface Warehouse {
  id: number;
  code: string;
  name: string;
}
export type AbcClass = "A" | "B" | "C";
export interface Sku {
  sku: string;
  name: string;
  barcode?: string | null;
  unit?: string;
  weight_g?: number | null;
  abc_class: AbcClass;
  image?: string | null;
}
export interface SkuStock {
  sku: string;
  name: string;
  on_hand: number;
  reserved?: number;
  available?: number;
  warehouses: { warehouse_id: number; warehouse: string; on_hand: number; locations: number }[];
}
export interface Balance {
  warehouse_id: number;
  sku: string;
  location: string;
  on_hand: number;
  reserved?: number;
  available?: number;
  updated_at: string;
}
export const ORDER_STATES = ["NEW", "ALLOCATED", "PICKING", "PICKED", "SHIPPED", "CANCELLED"] as const;
export type OrderStatus = (typeof ORDER_STATES)[number];
export interface OrderLine {
  line_number: number;
  sku: string;
  quantity: number;
  unit_price: string;
  allocated: number;
  picked: number;
}
export interface Order {
  id: number;
  order_number: string;
  warehouse_id: number;
  status: OrderStatus;
  priority: number;
  total_value: string;
  customer_id: number;
  created_at: string;
  updated_at: string;
  order_lines?: OrderLine[];
  customer?: { id: number; code: string; name: string; city: string | null };
}
export interface PickTask {
  id: number;
  wave_id: number;
  sequence: number;
  order_id: number;
  line_number: number;
  sku: string;
  sku_name: string;
  barcode: string | null;
  location: string;
  quantity: number;
  picked: number;
  status: "OPEN" | "PICKED" | "SHORT" | "CANCELLED";
}
export interface ConfirmedPick {
  id: number;
  status: PickTask["status"];
  picked: number;
}
export interface MovementRow {
  id: number;
  type: "receipt" | "issue" | "adjustment" | "transfer";
  sku: string;
  quantity: number;
  from_location: string | null;
  to_location: string | null;
  reference: string | null;
  posted_at: string;
}
export interface Hour {
  hour: string;
  count: number;
  units: number;
}
export interface Summary {
  orders: Partial<Record<OrderStatus, number>>;
  picks_open: number;
  receipts_open: number;
  movements_per_hour: Hour[];
  abc: Partial<Record<AbcClass, number>>;
}
export interface Signed {
  access_token: string;
  expires_in: number;
  refresh_token: string;
  permissions: string[];
}
